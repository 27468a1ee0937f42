"""Two-level scoring: which rows of a forward have a shortlist, and a Full layer's selection for them.

`begin` settles everything that the host has to know before a forward; in the layers of a CUDA forward nothing waits for
the device. The guard judges a context once a forward, by the pages before it.

Rows whose lists would save too little are scored exactly: what is launched for lists takes the host longer than an
exact layer (docs/how-it-works/two-level.md). Steps of decoded rows in CUDA graphs are in cuda/decode_lists.py.
"""

from collections.abc import Collection, Iterator, Sequence

import torch

from sgl_indexcache.indexer.forms import shift
from sgl_indexcache.indexer.guard import SAMPLES, Guard
from sgl_indexcache.indexer.kernels import TwoLevelKernels
from sgl_indexcache.indexer.layout import ExactRows, ListedRows, Rules, send
from sgl_indexcache.indexer.samples import Samples
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.selection import Inputs, TensorQueries, Terms
from sgl_indexcache.store.page_records import COUNTS, PageRecords
from sgl_indexcache.telemetry.two_level import TwoLevelWork

FIGURES = COUNTS + 1
"""What a layer reports beside the verdicts on contexts: its counts, and pages with a summary."""


class TwoLevel:
    """Two-level scoring of one scheduler.

    records    of the KV pages, on the device that `kernels` are for
    topk       positions of a selection
    min_saved  scores a layer that lists must save a request in a forward, else its rows are scored exactly
    """

    def __init__(
        self,
        records: PageRecords,
        kernels: TwoLevelKernels,
        shortlist: Shortlist,
        guard: Guard,
        topk: int,
        min_saved: int = 0,
    ) -> None:
        self.records, self.kernels = records, kernels
        self.rules = Rules(shortlist, guard, topk, min_saved, kernels.group, kernels.min_rows, kernels.max_rows)
        self.work = TwoLevelWork()
        self._samples = Samples(records, kernels, topk)
        self.configure(records.layers)

    def configure(self, layers: Sequence[int]) -> None:
        """Keep records of these Full layers, and forget everything; no request may be running."""
        # The last forward's samples may still be on their way into the records that go.
        self._samples.join()
        self.layers = tuple(layers)
        self.records.configure(layers)
        self._reported = torch.zeros(len(layers), COUNTS, dtype=torch.int64)
        self._listed: list[ListedRows] = []
        self._exact: list[ExactRows] = []
        self._fallen: dict[int, set[int]] = {}
        self._is_request = False

    def forget(self) -> None:
        """No record of a page is valid any longer, although KV may stay."""
        self._samples.join()
        self.records.forget()

    # --- before a forward ---

    def clear(self) -> None:
        """The forward in preparation shortlists nothing; to be called before every forward."""
        self._samples.join()
        self._listed, self._exact = [], []

    def begin(self, lengths: Sequence[int], new: Sequence[int], page_table: torch.Tensor, *, is_request: bool) -> None:
        """Lay out a forward of requests with `lengths` tokens, the last `new` of them rows; page_table int32 [B, P].

        Waits for the device if a row has a shortlist: what recall its context has was counted there.

        is_request  the forward is one of requests, not warm-up: it counts
        """
        self.clear()
        self._is_request = is_request
        self._fallen = {layer: set() for layer in self.layers}
        first = 0
        for request, (length, rows) in enumerate(zip(lengths, new, strict=True)):
            exact, listed = self.rules.lay_out(request, first, length - rows, length, self.records.device)
            self._exact += exact
            self._listed += listed
            first += rows
        if self._listed:
            self._judge_contexts(page_table)

    def _judge_contexts(self, page_table: torch.Tensor) -> None:
        """Which requests each layer scores exactly, by the latest samples of the pages before them."""
        first: dict[int, ListedRows] = {}
        rows: dict[int, int] = {}
        for part in self._listed:
            first.setdefault(part.request, part)
            rows[part.request] = rows.get(part.request, 0) + part.rows
        requests = sorted(first)
        before = [first[request].start // PAGE for request in requests]
        report = self._report(len(requests))
        lines, complete = send([torch.tensor(requests), torch.tensor(before)], report.device)
        need, floor = SAMPLES * self.rules.topk, self.rules.guard.floor
        self.kernels.verdicts(self.records.guard, page_table, lines, complete, need, floor, out=report[:, FIGURES:])
        report = report.cpu()
        self._count(report)
        for layer, tripped in zip(self.layers, report[:, FIGURES:].tolist(), strict=True):
            fallen = {request for request, trips in zip(requests, tripped, strict=True) if trips}
            self._fallen[layer] = fallen
            if self._is_request:
                # A decoded row goes on as the forward before it, which was counted.
                self.work.layers[layer].fallbacks += sum(rows[request] > 1 for request in fallen)

    def refresh(self) -> None:
        """Bring the counts of samples up to date; waits for the device."""
        self._samples.join()
        self._count(self._report(0).cpu())

    def _report(self, requests: int) -> torch.Tensor:
        """int64 [L, FIGURES + requests] for the host: the counts, pages with a summary (of the first layer alone), and
        room for the verdicts on so many contexts."""
        records = self.records
        report = torch.zeros(len(self.layers), FIGURES + requests, dtype=torch.int64, device=records.device)
        report[:, :COUNTS] = records.counts
        report[0, COUNTS] = records.has_summary[0].sum()
        return report

    def _count(self, report: torch.Tensor) -> None:
        """From the device's figures, see `_report`."""
        more = report[:, :COUNTS] - self._reported
        self._reported = report[:, :COUNTS]
        self.records.valid_pages = int(report[0, COUNTS])
        for layer, (rows, held, fallen, keys) in zip(self.layers, more.tolist(), strict=True):
            recall = self.work.layers[layer]
            recall.rows += rows
            recall.expected += rows * self.rules.topk
            recall.held += held
            recall.fallbacks += fallen
            # A fallen row has its list scored as well, and stays counted so: counters must not fall.
            self.work.keys_sampled += keys

    # --- in a layer ---

    @property
    def lists(self) -> bool:
        """Whether some row of the forward has a shortlist."""
        return bool(self._listed)

    def shortlists(self, layer: int) -> bool:
        """Whether some row is selected by its shortlist in this Full layer; else all are scored exactly."""
        return any(part.request not in self._fallen[layer] for part in self._listed)

    def select(self, layer: int, inputs: Inputs, terms: Terms, out: torch.Tensor, known: Collection[int] = ()) -> None:
        """Write a Full layer's selection into `out` int32 [>= T, topk], as `terms` say; rows behind the T become -1.

        known  requests whose rows of `out` hold their selections already: they are watched alone
        """
        fallen = self._fallen[layer]
        exact = self._exact + [part.exact for part in self._listed if part.request in fallen]
        for request, first, start, rows in exact:
            if request not in known:
                self.kernels.select(inputs, terms, out, rows=slice(first, first + rows), max_length=start + rows)
                self._count_exact(start, rows)
        listed = [part for part in self._listed if part.request not in fallen and part.request not in known]
        for part, lists, heads, samples in self._lists(layer, inputs, listed):
            self._select_listed(inputs, terms, out, part, lists, heads)
            self._watch(layer, inputs, part, lists, samples)
        self.watch(layer, inputs, fallen.union(known))
        out[len(inputs.lengths) :].fill_(-1)

    def watch(self, layer: int, inputs: Inputs, requests: Collection[int] | None = None) -> None:
        """Judge the guard's samples of these requests, or of all, whose selections two-level scoring does not make.

        What the guard knows of a context must depend neither on whether it serves it nor on whose it is.
        """
        watched = [
            part
            for part in self._listed
            if len(part.samples.lengths) and (requests is None or part.request in requests)
        ]
        for part, lists, _, samples in self._lists(layer, inputs, watched):
            self._watch(layer, inputs, part, lists, samples)

    def count_exact(self) -> None:
        """All rows of the forward were scored exactly in one Full layer, by whoever scores there."""
        for _, _, start, rows in (*self._exact, *(part.exact for part in self._listed)):
            self._count_exact(start, rows)

    def _lists(
        self, layer: int, inputs: Inputs, parts: Sequence[ListedRows]
    ) -> Iterator[tuple[ListedRows, torch.Tensor, TensorQueries, TensorQueries]]:
        """Each part with its lists, pages of the request int32 [G, n + 1], ascending, the groups' own page last, and
        with the queries of its groups' first rows and of its samples."""
        summaries, has_summary = self.records.of(layer)
        complete: dict[int, int] = {}
        for part in parts:
            complete[part.request] = max(complete.get(part.request, 0), part.max_complete)
        summarised = {
            request: self.kernels.summarise(inputs.index_k, inputs.page_table[request], summaries, has_summary, pages)
            for request, pages in complete.items()
        }
        window = max(self.rules.shortlist.window, -(-inputs.local // PAGE))
        for part in parts:
            queries, gates = inputs.queries(part.read)
            heads = TensorQueries(queries[: part.groups], gates[: part.groups])
            lists = torch.empty(part.groups, part.n + 1, dtype=torch.int32, device=part.complete.device)
            lists[:, part.n] = part.complete
            self.kernels.list_pages(
                heads.queries, heads.gates, summarised[part.request], part.complete, part.n,
                max_complete=part.max_complete, window=window, out=lists[:, : part.n],
            )  # fmt: skip
            yield part, lists, heads, TensorQueries(queries[part.groups :], gates[part.groups :])

    def _select_listed(
        self,
        inputs: Inputs,
        terms: Terms,
        out: torch.Tensor,
        part: ListedRows,
        lists: torch.Tensor,
        heads: TensorQueries,
    ) -> None:
        rows = slice(part.first, part.first + part.rows)
        # With a list for each row the heads are the rows.
        queries, gates = (heads.queries, heads.gates) if part.groups == part.rows else inputs.queries(rows)
        pages = inputs.page_table[part.request].index_select(0, lists.view(-1)).view_as(lists)
        self.kernels.select_listed(
            queries, gates, inputs.index_k, pages, part.group, part.lengths, self.rules.topk,
            names=pages if terms.form == "slots" else lists, initial=inputs.initial, local=inputs.local, out=out[rows],
        )  # fmt: skip
        if terms.form == "offsets":
            assert terms.offsets is not None
            shift(out[rows], terms.offsets[rows])
        if self._is_request:
            work = self.work
            work.rows += part.rows
            work.summaries_scored += part.work.summaries
            work.keys_scored += part.n * PAGE * part.rows + part.work.own_keys
            work.keys_seen += _triangle(part.start, part.rows)

    def _watch(self, layer: int, inputs: Inputs, part: ListedRows, lists: torch.Tensor, samples: TensorQueries) -> None:
        if len(part.samples.lengths):
            self._samples.judge(layer, inputs, part, lists, samples, counted=self._is_request)
            if self._is_request:
                self.work.keys_sampled += part.work.sampled_keys

    def _count_exact(self, start: int, rows: int) -> None:
        if self._is_request:
            keys = _triangle(start, rows)
            work = self.work
            work.exact_rows, work.exact_keys = work.exact_rows + rows, work.exact_keys + keys
            work.keys_seen, work.keys_scored = work.keys_seen + keys, work.keys_scored + keys


def _triangle(start: int, rows: int) -> int:
    """Keys that rows at positions from `start` on see in all."""
    return rows * start + rows * (rows + 1) // 2
