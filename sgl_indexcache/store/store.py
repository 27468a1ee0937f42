"""The index store of one scheduler: who writes which snapshot, which ones are kept, and which may be read.

Every decision follows from the order of the calls and from counters, never from a clock, an address or the contents
of a tensor, so that all ranks of a tensor-parallel group, which see the same requests, decide the same.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import torch

from sgl_indexcache.indexer.exact import Given
from sgl_indexcache.store.pool import Pool
from sgl_indexcache.store.tables import Layout, Row, Tables
from sgl_indexcache.store.tails import Tail, Tails, common
from sgl_indexcache.telemetry.events import EvictReason, SnapshotListener

TAILS_PER_PREFIX = 16
"""Different continuations that are kept of one prefix."""
TOLERANCE_EPS = 256
"""Default tolerance in machine epsilons of the model's dtype; see docs/results/store-fuzz.md."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The rows of one request in the forward to come.

    request   SGLang's req_pool_idx
    owner     the request's name, to notice that an index has changed hands
    start, end  positions of the rows
    prefill   whether they are prompt rows, computed in one go
    tokens    their tokens, for a lookup; may be empty
    tails     the tails of the prefix that ends at `start`
    """

    request: int
    owner: Hashable
    start: int
    end: int
    prefill: bool = False
    tokens: Sequence[int] = ()
    tails: Sequence[Tail] = ()


@dataclass(slots=True)
class StoreCounters:
    """Plain counters since the process started; the scheduler's thread writes them."""

    lookups: int = 0
    """prefills that began at the end of a cached prefix"""
    hits: int = 0
    """of them, those that found a snapshot of their first rows"""
    kept: int = 0
    """snapshots attached to a prefix"""
    evicted: int = 0
    """snapshots given up for others, least recently used first"""
    dropped: int = 0
    """snapshots that went with their prefix: evicted from the tree, flushed, or other weights"""
    untracked: int = 0
    """pages whose rows were not written down, because every slot was in use"""
    broken: int = 0
    """requests whose rows did not follow on the ones before; what was written of them was given up"""


@dataclass(slots=True)
class _Live:
    """What a request in flight writes: the page of its last row, and for one more forward the page before.

    With overlap scheduling a request that has finished still has a row in the next forward, which may open a page.
    """

    owner: Hashable
    end: int = 0
    first: int = -1
    slot: int | None = None
    twin: tuple[int, int] | None = None
    previous: "tuple[int, int, tuple[int, int] | None] | None" = None
    """(first, slot, twin) of the page before"""


class IndexStore:
    """Tail snapshots in a bounded pool.

    layers     ids of the Full layers, in order
    requests   rows of SGLang's request pool
    tolerance  margin above which a selection serves a forward of any shape
    """

    def __init__(self, pool: Pool, layers: Sequence[int], requests: int, tolerance: float) -> None:
        self.pool = pool
        self.window = pool.window
        self.tolerance = tolerance
        self.counters = StoreCounters()
        self.listener: SnapshotListener | None = None
        self.generation = 0
        self._tables = Tables(requests, pool.window)
        self._clock = 0
        self.configure(layers)

    def configure(self, layers: Sequence[int]) -> None:
        """Forget everything, and keep the selections of these Full layers from now on; no request may be running."""
        self.pool.configure(len(layers))
        self._layer = {layer: index for index, layer in enumerate(layers)}
        self._kept: dict[int, Tail] = {}
        self._lru: OrderedDict[int, Tail] = OrderedDict()
        self._writers: set[int] = set()
        self._live: dict[int, _Live] = {}
        self._reading: set[int] = set()
        self._free = list(range(self.pool.slots))[::-1]
        self._tables.write({})
        self._layout: Layout | None = None
        self.generation += 1

    def fits(self, layers: int) -> bool:
        """Whether `configure` would find room for at least one snapshot of that many Full layers."""
        return self.pool.slots_of(layers) > 0

    # --- before a forward, and when a request or a prefix ends ---

    def begin(self, turns: Sequence[Turn], requests: int | None = None) -> None:
        """Settle what the rows of the next forward read and write; called once before each forward.

        `requests` is the number of requests in the forward when some of them have no turn. Reads are settled for
        all of them first, so that no slot is given away that this forward reads.
        """
        alone = (len(turns) if requests is None else requests) == 1
        self._reading.clear()
        found = [self._find(turn, alone) for turn in turns]
        rows = {}
        for turn, match in zip(turns, found, strict=True):
            live = self._track(turn, alone)
            write = (-1, 0) if live.slot is None else (live.slot, live.first)
            rows[turn.request] = Row(*write) if match is None else Row(*write, match[0].slot, turn.start, *match[1:])
        self._tables.write(rows)
        self._layout = None

    def keep(
        self,
        request: int,
        owner: Hashable,
        tails: Tails,
        offset: int,
        first: int,
        tokens: Sequence[int],
        space: Hashable,
    ) -> bool:
        """Attach the snapshot of the request's rows from `first` on to the prefix that ends there.

        tokens are those of the rows, 1 to `window`; `offset` is where in the tree node of `tails` the prefix ends, and
        `space` its extra key. Returns whether there was a snapshot to attach.
        """
        live = self._live.get(request)
        if live is None or live.owner != owner or not 0 < len(tokens) <= self.window:
            return False
        if live.slot is not None and live.first == first:
            slot, twin = live.slot, live.twin
        elif live.previous is not None and live.previous[0] == first:
            _, slot, twin = live.previous
        else:
            return False
        self._clock += 1
        tail = self._kept.get(slot)
        if tail is None:
            tail = Tail(slot, tokens, space, self.generation, twin, self._clock, tails, offset)
            tails.add(tail)
            self._kept[slot] = tail
            self.counters.kept += 1
        else:  # the end of this request's prompt was kept before
            tail.tokens, tail.used = tokens, self._clock
        if self.listener is not None:
            self.listener.stored(slot, first, tokens, space)
        self._supersede(tail)
        return True

    def end(self, request: int) -> None:
        """The request is gone: it writes no more. What was kept of it stays."""
        live = self._live.pop(request, None)
        if live is not None:
            self._stop_writing(live.slot)
            self._forget_previous(live)

    def drop(self, tails: Tails) -> None:
        """The prefix of these tails is gone."""
        for tail in list(tails):
            self._remove(tail, "prefix")
            self.counters.dropped += 1

    def forget(self) -> None:
        """Nothing kept is valid any longer: flush, other weights, another pattern."""
        self.generation += 1
        for tail in list(self._kept.values()):
            self._remove(tail, "prefix")
            self.counters.dropped += 1
        for request in list(self._live):
            self.end(request)
        self._reading.clear()
        self._tables.write({})

    # --- in a forward ---

    def lay_out(self, request: torch.Tensor, length: torch.Tensor) -> None:
        """Find the snapshots of the forward's rows: of `request` int64 [T], each seeing `length` int64 [T] keys."""
        layout = self._tables.lay_out(request, length)
        idle = not layout.write_rows.numel() and not layout.read_rows.numel()
        self._layout = None if idle else layout

    def given(self, layer: int) -> Given | None:
        """What is known of a Full layer's selections in this forward; None when nothing is read or written."""
        layout = self._layout
        if layout is None:
            return None
        index = self._layer[layer]
        given = Given(
            selection=torch.full((layout.rows, self.pool.topk), -1, dtype=torch.int32),
            known=torch.zeros(layout.rows, dtype=torch.bool),
            watched=torch.zeros(layout.rows, dtype=torch.bool),
            margin=torch.zeros(layout.rows),
        )
        given.watched[layout.write_rows] = True
        if layout.read_rows.numel():
            margins = self.pool.margins[index].view(-1)[layout.read_flat]
            # NaN is not greater than anything: what is not a number settles nothing.
            usable = (margins > self.tolerance) | layout.twin
            rows, source = layout.read_rows[usable], layout.read_flat[usable]
            given.selection[rows] = self.pool.selections[index].view(-1, self.pool.topk)[source]
            given.margin[rows] = margins[usable]
            given.known[rows] = True
        return given

    def put(self, layer: int, given: Given) -> None:
        """Write down the selections and margins of the rows that requests in flight keep."""
        layout = self._layout
        if layout is None:
            return
        index = self._layer[layer]
        selections = self.pool.selections[index].view(-1, self.pool.topk)
        selections[layout.write_flat] = given.selection[layout.write_rows]
        self.pool.margins[index].view(-1)[layout.write_flat] = given.margin[layout.write_rows]

    # --- what it holds ---

    def snapshot(self) -> dict[str, int]:
        """Counters and gauges by name; free + live + held == slots, and live and reading are 0 at idle.

        live counts slots that only a request in flight holds, held those that a prefix holds.
        """
        live = sum(slot not in self._kept for slot in self._writers)
        gauges = {"slots": self.pool.slots, "free": len(self._free), "live": live, "held": len(self._kept)}
        return {**asdict(self.counters), **gauges, "requests": len(self._live), "bytes": self.pool.used_bytes}

    # --- inside ---

    def _find(self, turn: Turn, alone: bool) -> tuple[Tail, int, int] | None:
        """The tail with most of the turn's first tokens, their number, and whether its rows are this very prefill."""
        if not turn.tokens:
            return None
        self.counters.lookups += 1
        best: tuple[int, int, int, Tail] | None = None
        for tail in turn.tails:
            shared = common(tail.tokens, turn.tokens)
            twin = int(
                alone and turn.prefill and tail.twin == (turn.start, turn.end) and shared == turn.end - turn.start
            )
            if shared and (best is None or (twin, shared, tail.used) > best[:3]):
                best = (twin, shared, tail.used, tail)
        if best is None:
            return None
        twin, shared, _, tail = best
        if tail.generation != self.generation:  # cannot be; if it is, compute
            return None
        self.counters.hits += 1
        self._reading.add(tail.slot)
        self._touch(tail)
        if self.listener is not None:
            self.listener.reused(tail.slot, shared)
        return tail, shared, twin

    def _track(self, turn: Turn, alone: bool) -> _Live:
        """The request's live record, with a slot for the page of the turn's last row."""
        live = self._live.get(turn.request)
        if live is not None and (live.owner != turn.owner or live.end != turn.start):
            self.counters.broken += 1
            self.end(turn.request)
            live = None
        if live is None:
            live = self._live[turn.request] = _Live(turn.owner)
        first = (turn.end - 1) // self.window * self.window
        if live.first != first:
            self._open_page(live, turn, first, alone)
        elif turn.end - first > 1:
            self._forget_previous(live)
        live.end = turn.end
        return live

    def _open_page(self, live: _Live, turn: Turn, first: int, alone: bool) -> None:
        self._forget_previous(live)
        if live.slot is not None:
            if turn.end - first == 1:  # by overlap the request may have finished a row ago
                live.previous = (live.first, live.slot, live.twin)
            else:
                self._stop_writing(live.slot)
        live.first, live.slot, live.twin = first, None, None
        if turn.start > first:  # rows of this page are missing
            return
        live.slot = self._acquire()
        if live.slot is None:
            self.counters.untracked += 1
        elif alone and turn.prefill and turn.start == first:
            live.twin = (turn.start, turn.end)

    def _acquire(self) -> int | None:
        if self._free:
            slot = self._free.pop()
        else:
            tail = next((tail for slot, tail in self._lru.items() if slot not in self._reading), None)
            if tail is None:
                return None
            self._remove(tail, "room")
            self.counters.evicted += 1
            slot = self._free.pop()
        self._writers.add(slot)
        return slot

    def _stop_writing(self, slot: int | None) -> None:
        if slot is None:
            return
        self._writers.remove(slot)
        tail = self._kept.get(slot)
        if tail is None:
            self._free.append(slot)
        else:
            self._lru[slot] = tail

    def _forget_previous(self, live: _Live) -> None:
        if live.previous is not None:
            self._stop_writing(live.previous[1])
            live.previous = None

    def _touch(self, tail: Tail) -> None:
        self._clock += 1
        tail.used = self._clock
        if tail.slot in self._lru:
            self._lru.move_to_end(tail.slot)

    def _supersede(self, tail: Tail) -> None:
        """Give up the tails of the same prefix that say no more than this one, and the oldest above the limit."""
        beside = tail.holder.at(tail.offset)
        if len(beside) == 1:
            return
        others = [other for other in beside if other is not tail and other.slot in self._lru]
        for other in others:
            if tail.tokens[: len(other.tokens)] == other.tokens:
                self._remove(other, "replaced")
                self.counters.evicted += 1
        spare = sorted((other for other in others if other.slot in self._lru), key=lambda other: other.used)
        for other in spare[: max(0, len(beside) - TAILS_PER_PREFIX)]:
            self._remove(other, "room")
            self.counters.evicted += 1

    def _remove(self, tail: Tail, reason: EvictReason) -> None:
        if self.listener is not None:
            self.listener.evicted(tail.slot, reason)
        tail.holder.remove(tail)
        del self._kept[tail.slot]
        self._lru.pop(tail.slot, None)
        if tail.slot not in self._writers:
            self._free.append(tail.slot)
