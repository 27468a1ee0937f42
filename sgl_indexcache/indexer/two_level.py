"""Two-level scoring: page summaries first, then the keys of the pages that promise most; watched by a recall guard.

Every row has a shortlist of its own, which follows from the tokens before it alone. So a context gives the same
selections, up to rounding, whether it was prefilled at once, in chunks, over turns, or decoded token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sgl_indexcache.indexer.exact import Given, Queries, Selector
from sgl_indexcache.indexer.rows import Rows, Span
from sgl_indexcache.indexer.shortlist import DIGESTS, VOTED, Shortlist, select_listed
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.store.pages import Pages
from sgl_indexcache.telemetry.two_level import TwoLevelWork

SAMPLES = 8
"""Sampled rows by which a context is judged: its latest. Early rows, of which few pages are listed, do worse."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One row in `every` is scored both ways; while a context's recall lies below `floor`, it is scored exactly."""

    floor: float
    every: int

    def sampled(self, positions: torch.Tensor) -> torch.Tensor:
        """Which of `positions` int64 are samples; a hash, so that no place within a page or a phrase is preferred."""
        return (positions * 0x9E3779B1) % (1 << 32) < (1 << 32) // self.every

    def trips(self, pages: torch.Tensor, topk: int) -> bool:
        """Whether the page that follows is scored exactly; `pages` int64 [P, 2] are the records before it.

        A record is how many positions the page's samples should have and have found, of topk each.
        """
        latest = pages.flip(0).cumsum(0)
        enough = (latest[:, 0] >= SAMPLES * topk).nonzero()
        if not enough.numel():
            return False
        wanted, found = latest[enough[0, 0]].tolist()
        return bool(found < self.floor * wanted)


class TwoLevel:
    """What a scheduler needs of two-level scoring; see `select`."""

    def __init__(self, pages: Pages, shortlist: Shortlist, guard: Guard) -> None:
        self.pages = pages
        self.shortlist = shortlist
        self.guard = guard
        self.work = TwoLevelWork()

    def configure(self, layers: Sequence[int]) -> None:
        """Keep records of these Full layers, and forget everything; no request may be running."""
        self.pages.configure(layers)

    def forget(self) -> None:
        """No record of a page is valid any longer, although KV may stay."""
        self.pages.forget()

    def refresh(self) -> None:
        """The counters are up to date."""

    def select(
        self,
        layer: int,
        selector: Selector,
        queries: Queries,
        keys: torch.Tensor,
        slot_table: torch.Tensor,
        rows: Rows,
        given: Given | None = None,
    ) -> torch.Tensor:
        """Selection int32 `[T, topk]` of a Full layer; arguments as of Selector.__call__, and the layer's id.

        Writes the records of all pages that the forward touches. Slots of a page are consecutive: `slot_table` maps 64
        aligned positions to 64 aligned slots. `given` margins are 0: how firmly a shortlist was decided is not
        measured, so that selections are reused by the very same forward only.
        """
        self.pages.store_keys(layer, keys, slot_table, rows)
        out = (
            torch.full((rows.length.shape[0], selector.topk), -1, dtype=torch.int32)
            if given is None
            else given.selection
        )
        for span in rows.spans:
            turn = _Turn(self, layer, selector, queries, keys, slot_table, span)
            part = slice(span.first, span.first + span.rows)
            if given is not None and bool(given.known[part].all()):
                turn.take(out[part])
            else:
                out[part] = turn.run()
        return out


class _Turn:
    """The rows of one request in one forward and layer."""

    def __init__(
        self,
        parent: TwoLevel,
        layer: int,
        selector: Selector,
        queries: Queries,
        keys: torch.Tensor,
        slot_table: torch.Tensor,
        span: Span,
    ) -> None:
        self.pages, self.shortlist, self.guard = parent.pages, parent.shortlist, parent.guard
        self.work, self.recall = parent.work, parent.work.layers[layer]
        self.layer, self.selector, self.queries = layer, selector, queries
        self.keys, self.slot_table, self.span = keys, slot_table, span
        self.keys_by_page = keys[: self.pages.pages * PAGE].view(self.pages.pages, PAGE, -1)
        self.ids = self.pages.ids(slot_table, span)
        self.start = span.length - span.rows

    def run(self) -> torch.Tensor:
        """Selection int32 `[rows, topk]`."""
        found = []
        begin = self.start
        first = self._first_shortlisted()
        if begin < first:
            end = min(first, self.span.length)
            found.append(self._exact(begin, end))
            begin = end
        if begin < self.span.length and not self._valid():
            self.work.invalid += 1
            found.append(self._exact(begin, self.span.length))
            begin = self.span.length
        # A decoded row goes on as the page before, or as the rows of its own page.
        decoded = self.span.rows == 1 and begin < self.span.length
        fallen = decoded and (begin % PAGE > 0 or self._tripped(begin // PAGE - 1))
        while begin < self.span.length:
            end = min(self.span.length, (begin // PAGE + 1) * PAGE)
            if self._tripped(begin // PAGE):
                self.recall.fallbacks += not fallen
                fallen = True
                found.append(self._exact(begin, end))
                self._judge(begin, found[-1], exact=True)
            else:
                fallen = False
                found.append(self._two_level(begin, end))
                self._judge(begin, found[-1], exact=False)
            begin = end
        return torch.cat(found)

    def take(self, selection: torch.Tensor) -> None:
        """The rows' selections are known: write down what computing them would have written.

        The guard's samples among them are judged: what it knows of a context must not depend on who asked.
        """
        self.pages.store_selections(self.layer, self.ids, self.span, self.start, selection)
        begin = max(self.start, self._first_shortlisted())
        if not self._valid():
            return
        while begin < self.span.length:
            end = min(self.span.length, (begin // PAGE + 1) * PAGE)
            part = selection[begin - self.start : end - self.start]
            self._judge(begin, part, exact=self._tripped(begin // PAGE))
            begin = end

    def _tripped(self, page: int) -> bool:
        """Whether this page is scored exactly, as its context's latest samples say."""
        return self.guard.trips(self.pages.recall(self.layer, self.ids[:page]), self.selector.topk)

    def _first_shortlisted(self) -> int:
        """First position whose shortlist is not its whole context; that never shrinks again."""
        page: int = self.start // PAGE
        while page * PAGE < self.span.length and self.shortlist.lists_all(page, self.selector.topk):
            page += 1
        return int(page * PAGE)

    def _valid(self) -> bool:
        complete = self.ids[: (self.span.length - 1) // PAGE]
        return bool(self.pages.valid(self.layer, complete).all())

    def _exact(self, begin: int, end: int) -> torch.Tensor:
        """Selections of the rows from position `begin` to `end`, by exact scoring."""
        found = self._select(begin, end)
        seen = int(torch.arange(begin + 1, end + 1).sum())
        self.work.exact_rows += end - begin
        self.work.exact_keys += seen
        self.work.keys_seen += seen
        self.work.keys_scored += seen
        self.pages.store_selections(self.layer, self.ids, self.span, begin, found)
        return found

    def _select(self, begin: int, end: int) -> torch.Tensor:
        first, count = self.span.first + begin - self.start, end - begin
        lengths = torch.arange(begin + 1, end + 1)
        rows = Rows(torch.full((count,), self.span.request), lengths, (Span(self.span.request, 0, count, end),))
        return self.selector(
            lambda part: self.queries(slice(first + part.start, first + part.stop)), self.keys, self.slot_table, rows
        )

    def _two_level(self, begin: int, end: int) -> torch.Tensor:
        """Selections of rows in one page."""
        found = self._listed(begin, end)
        positions = torch.arange(begin, end)
        page = begin // PAGE
        n = self.shortlist.pages(page, self.selector.topk)
        self.work.rows += end - begin
        self.work.summaries_scored += page * (end - begin)
        self.work.keys_scored += int((n * PAGE + positions - page * PAGE + 1).sum())
        self.work.keys_seen += int((positions + 1).sum())
        self.pages.store_selections(self.layer, self.ids, self.span, begin, found)
        return found

    def _listed(self, begin: int, end: int) -> torch.Tensor:
        """Selections of rows in one page among the keys of their shortlists."""
        page, topk = begin // PAGE, self.selector.topk
        first = self.span.first + begin - self.start
        q, gates = self.queries(slice(first, first + end - begin))
        positions = torch.arange(begin, end)
        n = self.shortlist.pages(page, topk)
        near = self.ids[max(0, page - DIGESTS) : page]
        voted = self.pages.vote(self.layer, near, page, VOTED)
        summaries = score(q, self.pages.means(self.layer, self.ids[:page]), gates)
        initial, local = self.selector.initial, self.selector.local
        listed = self.shortlist.choose(summaries, voted, n, initial, local)
        return select_listed(q, gates, self.keys_by_page, self.ids[: page + 1], listed, positions, topk, initial, local)

    def _judge(self, begin: int, selections: torch.Tensor, *, exact: bool) -> None:
        """Score the samples among the rows from position `begin` on the other way too, and note the recall.

        selections int32 [R, topk] of these rows of one page, exact ones or two-level ones.
        """
        positions = torch.arange(begin, begin + selections.shape[0])
        for position in positions[self.guard.sampled(positions)].tolist():
            own = selections[position - begin]
            if exact:
                other = self._listed(position, position + 1)[0]
                page = position // PAGE
                listed = self.shortlist.pages(page, self.selector.topk) * PAGE + position % PAGE + 1
                self.work.keys_sampled += listed + page
            else:
                other = self._select(position, position + 1)[0]
                self.work.keys_sampled += position + 1
            hit = int(torch.isin(own, other).sum())
            seen = self.recall
            seen.rows, seen.wanted, seen.found = seen.rows + 1, seen.wanted + self.selector.topk, seen.found + hit
            self.pages.store_recall(self.layer, int(self.ids[position // PAGE]), self.selector.topk, hit)
