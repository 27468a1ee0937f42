"""The store of a backend that has no scores: a snapshot serves the very same prefill, and nothing else.

Fused kernels keep their scores to themselves, so nothing says how firmly a row was decided. What is left is the
prefill that an earlier forward ran alone, over the same cached KV: the same rows in the same shapes give the same
bits. Its rows are one range of one slot, so that reading and writing are copies of slices, with no index tensors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from sgl_indexcache.store.pool import Pool
from sgl_indexcache.store.requests import InFlight, RequestRows
from sgl_indexcache.store.slots import SnapshotSlots
from sgl_indexcache.store.tails import PrefillKey, Tail, common


class CopyPlan(NamedTuple):
    """What a forward with the rows `start` to `end` of one request does with rows 0 to end - start of a slot."""

    slot: int
    start: int
    end: int
    request: int
    read: bool
    """else all of it is written"""


class WholePrefillStore(SnapshotSlots):
    """Tail snapshots of whole prefills; arguments as SnapshotSlots's. The order of positions in a row is kept as it is.

    A forward: `begin` before it; `take` when its shape is known; then, layer by layer, `rows` to read from, or
    `write`. All in one thread, and all memory is touched by copies on the forward's stream alone.
    """

    # The rows of a decode forward are nobody's prefill.
    follows_decode = False
    # SGLang's kernels select in an order of their own.
    ascending = False

    def __init__(self, pool: Pool, layers: Sequence[int]) -> None:
        self._plan: CopyPlan | None = None
        self._missing: set[int] = set()
        super().__init__(pool, layers)

    def begin(self, batch: Sequence[RequestRows], requests: int | None = None) -> None:
        """Settle what the next forward reads or writes; called once before each forward, prefills at least.

        `requests` is the number of requests in the forward when some of them bring no rows.
        """
        self._let_go()
        for rows in batch:
            if rows.prefill:
                # What an earlier chunk of this request has written, nobody has kept.
                self.end(rows.request)
                self.counters.lookups += bool(rows.tokens)
        if len(batch) != 1 or requests not in (None, 1):
            return
        rows = batch[0]
        # Rows that see at most topk keys select all of them, without being scored.
        if not rows.prefill or rows.end <= self.pool.topk:
            return
        tail = self._find(rows)
        if tail is not None:
            self._hit(tail, rows.end - rows.start)
            self._plan = CopyPlan(tail.slot, rows.start, rows.end, rows.request, read=True)
        elif rows.start and rows.start == (rows.end - 1) // self.window * self.window:
            self._write_down(rows)

    def take(self, lengths: Sequence[int], new: Sequence[int]) -> CopyPlan | None:
        """The plan of the forward whose requests have `lengths` tokens, `new` of them rows; it is given once.

        None where there is nothing to do, and for forwards that nobody announced (warm-up, capture).
        """
        plan, self._plan = self._plan, None
        if plan is None or (list(lengths), list(new)) != ([plan.end], [plan.end - plan.start]):
            return None
        return plan

    def rows(self, plan: CopyPlan, layer: int) -> torch.Tensor:
        """The selections int32 [rows, topk] of a Full layer, where they lie in the pool."""
        return self.pool.selections[self._layer[layer], plan.slot, : plan.end - plan.start]

    def write(self, plan: CopyPlan, layer: int, selection: torch.Tensor) -> None:
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

    def _covered(self, tokens: Sequence[int], key: PrefillKey | None) -> Sequence[int]:
        # Rows that were decoded after the prefill are in the page too, but not in the slot.
        return tokens if key is None else tokens[: key[1] - key[0]]

    def _says_all_of(self, tail: Tail, other: Tail) -> bool:
        return tail.key == other.key and tail.tokens == other.tokens

    def _find(self, rows: RequestRows) -> Tail | None:
        """The tail that the very same prefill wrote."""
        for tail in rows.tails:
            same = tail.key == rows.key and tail.generation == self.generation
            if same and common(tail.tokens, rows.tokens) == rows.end - rows.start:
                return tail
        return None

    def _write_down(self, rows: RequestRows) -> None:
        slot = self._acquire()
        if slot is None:
            self.counters.untracked += 1
            return
        self._missing = set(self._layer)
        self._live[rows.request] = InFlight(rows.owner, rows.end, rows.start, slot, rows.key, written=False)
        self._plan = CopyPlan(slot, rows.start, rows.end, rows.request, read=False)
