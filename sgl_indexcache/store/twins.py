"""The store of a backend that has no scores: a snapshot serves the very same prefill, and nothing else.

Fused kernels keep their scores to themselves, so nothing says how firmly a row was decided. What is left is the
prefill that an earlier forward ran alone, over the same cached KV: the same rows in the same shapes give the same
bits. Its rows are one range of one slot, so that reading and writing are copies of slices, with no index tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from sgl_indexcache.store.keeper import Keeper
from sgl_indexcache.store.pool import Pool
from sgl_indexcache.store.tails import Tail, Twin, common
from sgl_indexcache.store.turns import Live, Turn


class Plan(NamedTuple):
    """What a forward with the rows `start` to `end` of one request does with rows 0 to end - start of a slot."""

    slot: int
    start: int
    end: int
    request: int
    read: bool
    """else all of it is written"""


class TwinStore(Keeper):
    """Tail snapshots of whole prefills; arguments as Keeper's. The order of positions in a row is kept as it is.

    A forward: `begin` before it; `take` when its shape is known; then, layer by layer, `rows` to read from, or
    `write`. All in one thread, and all memory is touched by copies on the forward's stream alone.
    """

    # The rows of a decode forward are nobody's prefill.
    follows_decode = False
    # SGLang's kernels select in an order of their own.
    ascending = False

    def __init__(self, pool: Pool, layers: Sequence[int]) -> None:
        self._plan: Plan | None = None
        self._missing: set[int] = set()
        super().__init__(pool, layers)

    def begin(self, turns: Sequence[Turn], requests: int | None = None) -> None:
        """Settle what the next forward reads or writes; called once before each forward, prefills at least.

        `requests` is the number of requests in the forward when some of them have no turn.
        """
        self._let_go()
        for turn in turns:
            if turn.prefill:
                # What an earlier chunk of this request has written, nobody has kept.
                self.end(turn.request)
                self.counters.lookups += bool(turn.tokens)
        if len(turns) != 1 or requests not in (None, 1):
            return
        turn = turns[0]
        # Rows that see at most topk keys select all of them, without being scored.
        if not turn.prefill or turn.end <= self.pool.topk:
            return
        tail = self._find(turn)
        if tail is not None:
            self._hit(tail, turn.end - turn.start)
            self._plan = Plan(tail.slot, turn.start, turn.end, turn.request, read=True)
        elif turn.start and turn.start == (turn.end - 1) // self.window * self.window:
            self._write_down(turn)

    def take(self, lengths: Sequence[int], new: Sequence[int]) -> Plan | None:
        """The plan of the forward whose requests have `lengths` tokens, `new` of them rows; it is given once.

        None where there is nothing to do, and for forwards that nobody announced (warm-up, capture).
        """
        plan, self._plan = self._plan, None
        if plan is None or (list(lengths), list(new)) != ([plan.end], [plan.end - plan.start]):
            return None
        return plan

    def rows(self, plan: Plan, layer: int) -> torch.Tensor:
        """The selections int32 [rows, topk] of a Full layer, where they lie in the pool."""
        return self.pool.selections[self._layer[layer], plan.slot, : plan.end - plan.start]

    def write(self, plan: Plan, layer: int, selection: torch.Tensor) -> None:
        """Write down a Full layer's selections int32 [rows, topk], request-relative, on any device."""
        self.rows(plan, layer).copy_(selection, non_blocking=True)
        self._missing.discard(layer)
        live = self._live.get(plan.request)
        if live is not None and live.slot == plan.slot:
            # A forward that does not come by here in every Full layer leaves nothing to keep.
            live.written = not self._missing

    # --- inside ---

    def _let_go(self) -> None:
        super()._let_go()
        self._plan = None
        self._missing.clear()

    def _covered(self, tokens: Sequence[int], twin: Twin | None) -> Sequence[int]:
        # Rows that were decoded after the prefill are in the page too, but not in the slot.
        return tokens if twin is None else tokens[: twin[1] - twin[0]]

    def _says_all_of(self, tail: Tail, other: Tail) -> bool:
        return tail.twin == other.twin and tail.tokens == other.tokens

    def _find(self, turn: Turn) -> Tail | None:
        """The tail that the very same prefill wrote."""
        for tail in turn.tails:
            same = tail.twin == turn.twin and tail.generation == self.generation
            if same and common(tail.tokens, turn.tokens) == turn.end - turn.start:
                return tail
        return None

    def _write_down(self, turn: Turn) -> None:
        slot = self._acquire()
        if slot is None:
            self.counters.untracked += 1
            return
        self._missing = set(self._layer)
        self._live[turn.request] = Live(turn.owner, turn.end, turn.start, slot, turn.twin, written=False)
        self._plan = Plan(slot, turn.start, turn.end, turn.request, read=False)
