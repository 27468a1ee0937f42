"""The store of a backend that has the scores: a selection serves any forward that cannot decide otherwise."""

from collections.abc import Sequence

import torch

from sgl_indexcache.selection import KnownRows
from sgl_indexcache.store.keeper import Keeper
from sgl_indexcache.store.pool import Pool
from sgl_indexcache.store.tables import Layout, Row, Tables
from sgl_indexcache.store.tails import Tail, common
from sgl_indexcache.store.turns import Live, Turn

TOLERANCE_EPS = 256
"""Default tolerance in machine epsilons of the model's dtype; see docs/results/store-fuzz.md."""


class IndexStore(Keeper):
    """Tail snapshots that are read row by row, and written row by row by all requests in flight.

    layers     ids of the Full layers, in order
    requests   rows of SGLang's request pool
    tolerance  margin above which a selection serves a forward of any shape
    """

    def __init__(self, pool: Pool, layers: Sequence[int], requests: int, tolerance: float) -> None:
        self.tolerance = tolerance
        self._tables = Tables(requests, pool.window)
        self._layout: Layout | None = None
        super().__init__(pool, layers)

    # --- before a forward ---

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

    # --- in a forward ---

    def lay_out(self, request: torch.Tensor, length: torch.Tensor) -> None:
        """Find the snapshots of the forward's rows: of `request` int64 [T], each seeing `length` int64 [T] keys."""
        layout = self._tables.lay_out(request, length)
        idle = not layout.write_rows.numel() and not layout.read_rows.numel()
        self._layout = None if idle else layout

    def known_rows(self, layer: int) -> KnownRows | None:
        """What is known of a Full layer's selections in this forward; None when nothing is read or written."""
        layout = self._layout
        if layout is None:
            return None
        index = self._layer[layer]
        known = KnownRows(
            selection=torch.full((layout.rows, self.pool.topk), -1, dtype=torch.int32),
            settled=torch.zeros(layout.rows, dtype=torch.bool),
            watched=torch.zeros(layout.rows, dtype=torch.bool),
            margin=torch.zeros(layout.rows),
        )
        known.watched[layout.write_rows] = True
        if layout.read_rows.numel():
            margins = self.pool.margins[index].view(-1)[layout.read_flat]
            # NaN is not greater than anything: what is not a number settles nothing.
            usable = (margins > self.tolerance) | layout.twin
            rows, source = layout.read_rows[usable], layout.read_flat[usable]
            known.selection[rows] = self.pool.selections[index].view(-1, self.pool.topk)[source]
            known.margin[rows] = margins[usable]
            known.settled[rows] = True
        return known

    def put(self, layer: int, known: KnownRows) -> None:
        """Write down the selections and margins of the rows that requests in flight keep."""
        layout = self._layout
        if layout is None:
            return
        index = self._layer[layer]
        selections = self.pool.selections[index].view(-1, self.pool.topk)
        selections[layout.write_flat] = known.selection[layout.write_rows]
        self.pool.margins[index].view(-1)[layout.write_flat] = known.margin[layout.write_rows]

    # --- inside ---

    def _let_go(self) -> None:
        super()._let_go()
        self._tables.write({})
        self._layout = None

    def _find(self, turn: Turn, alone: bool) -> tuple[Tail, int, int] | None:
        """The tail with most of the turn's first tokens, their number, and whether its rows are this very prefill."""
        if not turn.tokens:
            return None
        self.counters.lookups += 1
        best: tuple[int, int, int, Tail] | None = None
        for tail in turn.tails:
            shared = common(tail.tokens, turn.tokens)
            twin = int(alone and turn.prefill and tail.twin == turn.twin and shared == turn.end - turn.start)
            if shared and (best is None or (twin, shared, tail.used) > best[:3]):
                best = (twin, shared, tail.used, tail)
        if best is None:
            return None
        twin, shared, _, tail = best
        if tail.generation != self.generation:  # cannot be; if it is, compute
            return None
        self._hit(tail, shared)
        return tail, shared, twin

    def _track(self, turn: Turn, alone: bool) -> Live:
        """The request's live record, with a slot for the page of the turn's last row."""
        live = self._live.get(turn.request)
        if live is not None and (live.owner != turn.owner or live.end != turn.start):
            self.counters.broken += 1
            self.end(turn.request)
            live = None
        if live is None:
            live = self._live[turn.request] = Live(turn.owner)
        first = (turn.end - 1) // self.window * self.window
        if live.first != first:
            self._open_page(live, turn, first, alone)
        elif turn.end - first > 1:
            self._forget_previous(live)
        live.end = turn.end
        return live

    def _open_page(self, live: Live, turn: Turn, first: int, alone: bool) -> None:
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
            live.twin = turn.twin
