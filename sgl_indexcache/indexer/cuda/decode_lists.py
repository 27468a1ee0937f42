"""Two-level scoring of decode steps on CUDA: one row a request, in captured graphs, too.

Whether a step has lists is settled by its number of rows alone, so that a graph keeps what it was captured with; a
request's context, its recall and its missing summaries are looked up on the device. For few rows SGLang's own decode
indexer is quicker (docs/results/two-level-speed.md).
"""

import torch

from sgl_indexcache.indexer.guard import SAMPLES, Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.shortlist import Judgement, Records
from sgl_indexcache.kernels.shortlist.cuda_decode import select_decoded
from sgl_indexcache.selection import Inputs
from sgl_indexcache.store.page_records import PageRecords
from sgl_indexcache.telemetry.two_level import TwoLevelWork


class DecodeLists:
    """Lists of rows that are decoded; the records' counts tell of their samples and fall-backs.

    min_rows  rows of a forward from which on they have lists; None: never
    """

    def __init__(
        self,
        records: PageRecords,
        shortlist: Shortlist,
        guard: Guard,
        topk: int,
        budget_bytes: int,
        min_rows: int | None,
    ) -> None:
        self.records, self._shortlist, self._guard = records, shortlist, guard
        self._budget_bytes, self._topk = budget_bytes, topk
        self._judgement = Judgement(guard.every, SAMPLES * topk, guard.floor)
        # A graph is made for one number of pages, so lists are of one size (sglang_port/two_level.py refuses others).
        self._n = shortlist.pages(1 << 40, topk) if isinstance(shortlist.size, int) else 0
        self._min_rows = min_rows if self._n else None

    def serves(self, rows: int) -> bool:
        """Whether a decode forward of so many rows, padding included, has lists."""
        return self._min_rows is not None and rows >= self._min_rows

    def select(self, layer: int, inputs: Inputs, *, slots: bool, out: torch.Tensor) -> None:
        """Write a Full layer's selection into `out` int32 [T, k], KV `slots` or positions.

        page_table [T, P] and lengths [T] of `inputs` are of the T requests; request does not matter.
        """
        summaries, has_summary = self.records.of(layer)
        queries, gates = inputs.queries(slice(None))
        select_decoded(
            queries, gates, inputs.index_k, inputs.page_table, inputs.lengths,
            Records(summaries, has_summary, self.records.guard_of(layer), self.records.counts_of(layer)),
            self._n, self._topk, self._judgement, window=max(self._shortlist.window, -(-inputs.local // PAGE)),
            slots=slots, initial=inputs.initial, local=inputs.local, budget_bytes=self._budget_bytes, out=out,
        )  # fmt: skip

    def count(self, lengths: torch.Tensor, work: TwoLevelWork) -> None:
        """A forward of requests decodes rows that see `lengths` keys, int [T] on the CPU.

        Contexts that the guard has scored exactly as well are known on the device alone, and counted by the records.
        """
        layers = len(self.records.layers)
        lengths = lengths.long()
        complete = (lengths - 1) // PAGE
        listed = complete > self._n
        total, short = int(lengths.sum()), int(lengths[~listed].sum())
        own = lengths[listed] - complete[listed] * PAGE
        sampled = listed & self._guard.sampled(lengths - 1)
        work.rows += layers * int(listed.sum())
        work.exact_rows += layers * int((~listed).sum())
        work.exact_keys += layers * short
        work.keys_seen += layers * total
        work.keys_scored += layers * (short + self._n * PAGE * len(own) + int(own.sum()))
        work.summaries_scored += layers * int(complete[listed].sum())
        work.keys_sampled += layers * int(lengths[sampled].sum())
