"""The store of a backend that has the scores: a selection serves any forward that cannot decide otherwise."""

from collections.abc import Sequence

import torch

from sgl_indexcache.selection import KnownRows
from sgl_indexcache.store.pool import Pool
from sgl_indexcache.store.requests import InFlight, RequestRows
from sgl_indexcache.store.slots import SnapshotSlots
from sgl_indexcache.store.tables import Layout, Row, Tables
from sgl_indexcache.store.tails import Tail, common

TOLERANCE_EPS = 256
"""Default tolerance in machine epsilons of the model's dtype; see docs/results/store-fuzz.md."""


class IndexStore(SnapshotSlots):
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

    def begin(self, batch: Sequence[RequestRows], requests: int | None = None) -> None:
        """Settle what the rows of the next forward read and write; called once before each forward.

        `requests` is the number of requests in the forward when some of them bring no rows. Reads are settled for
        all of them first, so that no slot is given away that this forward reads.
        """
        alone = (len(batch) if requests is None else requests) == 1
        self._reading.clear()
        matches = [self._find(rows, alone) for rows in batch]
        table = {}
        for rows, match in zip(batch, matches, strict=True):
            live = self._track(rows, alone)
            write = (-1, 0) if live.slot is None else (live.slot, live.first)
            table[rows.request] = Row(*write) if match is None else Row(*write, match[0].slot, rows.start, *match[1:])
        self._tables.write(table)
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
            usable = (margins > self.tolerance) | layout.same_prefill
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

    def _find(self, rows: RequestRows, alone: bool) -> tuple[Tail, int, int] | None:
        """The tail with most of the first tokens, their number, and whether its rows are this very prefill."""
        if not rows.tokens:
            return None
        self.counters.lookups += 1
        best: tuple[int, int, int, Tail] | None = None
        for tail in rows.tails:
            shared = common(tail.tokens, rows.tokens)
            same = int(alone and rows.prefill and tail.key == rows.key and shared == rows.end - rows.start)
            if shared and (best is None or (same, shared, tail.used) > best[:3]):
                best = (same, shared, tail.used, tail)
        if best is None:
            return None
        same, shared, _, tail = best
        if tail.generation != self.generation:  # cannot be; if it is, compute
            return None
        self._hit(tail, shared)
        return tail, shared, same

    def _track(self, rows: RequestRows, alone: bool) -> InFlight:
        """The request's live record, with a slot for the page of its last row."""
        live = self._live.get(rows.request)
        if live is not None and (live.owner != rows.owner or live.end != rows.start):
            self.counters.broken += 1
            self.end(rows.request)
            live = None
        if live is None:
            live = self._live[rows.request] = InFlight(rows.owner)
        first = (rows.end - 1) // self.window * self.window
        if live.first != first:
            self._open_page(live, rows, first, alone)
        elif rows.end - first > 1:
            self._forget_previous(live)
        live.end = rows.end
        return live

    def _open_page(self, live: InFlight, rows: RequestRows, first: int, alone: bool) -> None:
        self._forget_previous(live)
        if live.slot is not None:
            if rows.end - first == 1:  # by overlap the request may have finished a row ago
                live.previous = (live.first, live.slot, live.key)
            else:
                self._stop_writing(live.slot)
        live.first, live.slot, live.key = first, None, None
        if rows.start > first:  # rows of this page are missing
            return
        live.slot = self._acquire()
        if live.slot is None:
            self.counters.untracked += 1
        elif alone and rows.prefill and rows.start == first:
            live.key = rows.key
