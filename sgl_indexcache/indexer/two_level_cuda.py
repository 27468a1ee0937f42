"""Two-level scoring on CUDA: which rows of a prefill have a shortlist, and a Full layer's selection for them.

`begin` settles everything that the host has to know before the launch of a forward; in the layers nothing waits for the
device. What two_level.py does page by page is done here for all rows of a request at once, so the guard judges a
context once a forward, by the pages before it, and digests do not vote (store/device_pages.py).

A single row is scored exactly, and so are rows whose lists would save too little: what is launched for lists takes the
host longer than an exact layer (docs/results/store.md). Decode steps are in two_level_decode.py.
"""

from collections.abc import Collection, Iterator, Sequence

import torch

from sgl_indexcache.indexer.cuda import select_rows, shift
from sgl_indexcache.indexer.forms import Form
from sgl_indexcache.indexer.inputs import IndexerTerms, Inputs
from sgl_indexcache.indexer.parts import Part, Plain, Rows, lay_out, send
from sgl_indexcache.indexer.samples import Samples
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import SAMPLES, Guard
from sgl_indexcache.indexer.two_level_decode import DecodeLists
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.shortlist.cuda import list_pages, select_listed, summarise
from sgl_indexcache.kernels.shortlist.cuda_guard import verdicts
from sgl_indexcache.store.device_pages import DevicePages
from sgl_indexcache.telemetry.two_level import TwoLevelWork

FIGURES = 5
"""What a layer tells beside the verdicts on contexts."""


class TwoLevelCuda:
    """What a scheduler needs of two-level scoring on CUDA."""

    def __init__(
        self,
        pages: DevicePages,
        shortlist: Shortlist,
        guard: Guard,
        topk: int,
        budget_bytes: int,
        min_saved: int = 0,
        decode_rows: int | None = None,
    ) -> None:
        self.pages, self.shortlist, self.guard = pages, shortlist, guard
        self.topk, self.budget_bytes, self.min_saved = topk, budget_bytes, min_saved
        self._decode_rows = decode_rows
        self.work = TwoLevelWork()
        self.configure(pages.layers)

    def configure(self, layers: Sequence[int]) -> None:
        """Keep records of these Full layers, and forget everything; no request may be running."""
        self.layers = tuple(layers)
        self.pages.configure(layers)
        # Of each Full layer: samples, positions found by them, decoded rows that the guard has had scored exactly, and
        # their keys; on the device, and as last told.
        self._counts = torch.zeros(len(layers), 4, dtype=torch.int64, device=self.pages.there.device)
        self._counted = torch.zeros(len(layers), 4, dtype=torch.int64)
        self._samples = Samples(self.pages, self.topk, self.budget_bytes, self._counts)
        self.decode = DecodeLists(
            self.pages, self.shortlist, self.guard, self.topk, self.budget_bytes, self._decode_rows, self._counts
        )
        self._parts: list[Part] = []
        self._exact: list[Plain] = []
        self._fallen: dict[int, set[int]] = {}
        self._asked = False

    def forget(self) -> None:
        """No record of a page is valid any longer, although KV may stay."""
        self._samples.join()
        self.pages.forget()

    # --- before a forward ---

    def clear(self) -> None:
        """The forward in preparation shortlists nothing; to be called before every forward."""
        self._samples.join()
        self._parts, self._exact = [], []

    def begin(self, lengths: Sequence[int], new: Sequence[int], page_table: torch.Tensor, *, asked: bool) -> None:
        """Lay out a prefill of requests with `lengths` tokens, the last `new` of them rows; page_table int32 [B, P].

        Waits for the device if a row has a shortlist: whether its context bears it was counted there. `asked`: whether
        somebody asked for this forward.
        """
        self.clear()
        self._asked = asked
        self._fallen = {layer: set() for layer in self.layers}
        device = self.pages.there.device
        first = 0
        for request, (length, rows) in enumerate(zip(lengths, new, strict=True)):
            exact, parts = lay_out(
                request, first, length - rows, length, self.shortlist, self.guard, self.topk, device, self.min_saved
            )
            self._exact += exact
            self._parts += parts
            first += rows
        if self._parts:
            self._judge_contexts(page_table)

    def _judge_contexts(self, page_table: torch.Tensor) -> None:
        """Which requests each layer scores exactly, as the latest samples of the pages before say (two_level.Guard)."""
        starts: dict[int, int] = {}
        for part in self._parts:
            starts.setdefault(part.request, part.start)
        requests = sorted(starts)
        before = [starts[request] // PAGE for request in requests]
        told = self._told(len(requests))
        lines, complete = send([torch.tensor(requests), torch.tensor(before)], told.device)
        verdicts(
            self.pages.guard, page_table, lines, complete, SAMPLES * self.topk, self.guard.floor, out=told[:, FIGURES:]
        )
        told = told.cpu()
        self._count(told)
        for layer, tripped in zip(self.layers, told[:, FIGURES:].tolist(), strict=True):
            self._fallen[layer] = {request for request, trips in zip(requests, tripped, strict=True) if trips}
            if self._asked:
                self.work.layers[layer].fallbacks += len(self._fallen[layer])

    def refresh(self) -> None:
        """Bring the counts of samples up to date; waits for the device."""
        self._samples.join()
        self._count(self._told(0).cpu())

    def _told(self, requests: int) -> torch.Tensor:
        """int64 [L, FIGURES + requests] for the host: the counts, pages with a summary (of the first layer alone), and
        room for the verdicts on so many contexts."""
        told = torch.zeros(len(self.layers), FIGURES + requests, dtype=torch.int64, device=self._counts.device)
        told[:, :4] = self._counts
        told[0, 4] = self.pages.there[0].sum()
        return told

    def _count(self, told: torch.Tensor) -> None:
        """From the device's figures, as of `_told`."""
        more = told[:, :4] - self._counted
        self._counted = told[:, :4]
        self.pages.valid_pages = int(told[0, 4])
        work = self.work
        for layer, (rows, found, fallen, keys) in zip(self.layers, more.tolist(), strict=True):
            seen = work.layers[layer]
            seen.rows, seen.found = seen.rows + rows, seen.found + found
            seen.wanted += rows * self.topk
            seen.fallbacks += fallen
            # Such a row has its list scored as well, and stays counted so: what is told late must take nothing back.
            work.keys_sampled += keys

    # --- in a layer ---

    @property
    def lists(self) -> bool:
        """Whether some row of the forward has a shortlist."""
        return bool(self._parts)

    def shortlists(self, layer: int) -> bool:
        """Whether some row is selected by its shortlist in this Full layer; else all are scored exactly."""
        return any(part.request not in self._fallen[layer] for part in self._parts)

    def select(self, layer: int, given: Inputs, *, form: Form, offsets: torch.Tensor | None, out: torch.Tensor) -> None:
        """Write a Full layer's selection into `out` int32 [T, k], in the `form` that SGLang asks for; see forms.py."""
        fallen = self._fallen[layer]
        exact = [Plain(part.first, part.start, part.rows) for part in self._parts if part.request in fallen]
        for first, start, rows in self._exact + exact:
            some = slice(first, first + rows)
            select_rows(
                given.indexer, given.queries[some], given.gates[some], given.index_k, given.page_table,
                given.request[some], given.lengths[some], max_length=start + rows, form=form,
                offsets=None if offsets is None else offsets[some], budget_bytes=self.budget_bytes, out=out[some],
            )  # fmt: skip
            self._count_exact(start, rows)
        parts = [part for part in self._parts if part.request not in fallen]
        for part, listed, samples in self._lists(layer, given, parts):
            some = slice(part.first, part.first + part.rows)
            pages = _of_request(given.page_table[part.request], listed)
            select_listed(
                given.queries[some], given.gates[some], given.index_k, pages, part.group, part.lengths, self.topk,
                names=pages if form == "slots" else listed, initial=given.indexer.num_init_tokens,
                local=given.indexer.num_local_tokens, budget_bytes=self.budget_bytes, out=out[some],
            )  # fmt: skip
            if form == "offsets":
                assert offsets is not None
                shift(out[some], offsets[some])
            self._count_listed(part)
            self._watch(layer, given, part, listed, samples)
        self.watch(layer, given, fallen)
        out[len(given.lengths) :].fill_(-1)

    def watch(self, layer: int, given: Inputs, requests: Collection[int] | None = None) -> None:
        """Judge the guard's samples of these requests, or of all, whose selections two-level scoring does not make.

        What the guard knows of a context must depend neither on whether it serves it nor on who asked.
        """
        watched = [part for part in self._parts if part.samples and (requests is None or part.request in requests)]
        for part, listed, samples in self._lists(layer, given, watched):
            self._watch(layer, given, part, listed, samples)

    def count_exact(self) -> None:
        """All rows of the forward were scored exactly in one Full layer, by whoever scores there."""
        for plain in self._exact:
            self._count_exact(plain.start, plain.rows)
        for part in self._parts:
            self._count_exact(part.start, part.rows)

    def _lists(self, layer: int, given: Inputs, parts: Sequence[Part]) -> Iterator[tuple[Part, torch.Tensor, Rows]]:
        """Each part with its lists, pages of the request int32 [G, n + 1], ascending, the groups' own page last; and
        with its samples."""
        summaries, there = self.pages.of(layer)
        most: dict[int, int] = {}
        for part in parts:
            most[part.request] = max(most.get(part.request, 0), part.most)
        packed = {
            request: summarise(given.index_k, given.page_table[request], summaries, there, pages)
            for request, pages in most.items()
        }
        for part in parts:
            heads, samples = part.rows_of(given.queries, given.gates)
            listed = torch.empty(part.groups, part.n + 1, dtype=torch.int32, device=given.queries.device)
            listed[:, part.n] = part.complete
            list_pages(
                heads.queries, heads.gates, packed[part.request], part.complete, part.n, max_complete=part.most,
                window=self._window(given.indexer), budget_bytes=self.budget_bytes, out=listed[:, : part.n],
            )  # fmt: skip
            yield part, listed, samples

    def _window(self, indexer: IndexerTerms) -> int:
        near: int = -(-indexer.num_local_tokens // PAGE)
        return max(self.shortlist.window, near)

    def _watch(self, layer: int, given: Inputs, part: Part, listed: torch.Tensor, samples: Rows) -> None:
        if part.samples:
            self._samples.judge(layer, given, part, listed, samples, asked=self._asked)
            if self._asked:
                self.work.keys_sampled += part.keys_sampled

    def _count_exact(self, start: int, rows: int) -> None:
        if self._asked:
            seen = _triangle(start, rows)
            work = self.work
            work.exact_rows, work.exact_keys = work.exact_rows + rows, work.exact_keys + seen
            work.keys_seen, work.keys_scored = work.keys_seen + seen, work.keys_scored + seen

    def _count_listed(self, part: Part) -> None:
        if self._asked:
            work, n = self.work, part.n
            work.rows += part.rows
            work.summaries_scored += part.summaries
            work.keys_scored += n * PAGE * part.rows + part.own_keys
            work.keys_seen += _triangle(part.start, part.rows)


def _triangle(start: int, rows: int) -> int:
    """Keys that rows at positions from `start` on see in all."""
    return rows * start + rows * (rows + 1) // 2


def _of_request(page_table: torch.Tensor, listed: torch.Tensor) -> torch.Tensor:
    """KV pages int32 of listed pages of a request."""
    return page_table.index_select(0, listed.view(-1)).view_as(listed)
