"""Two-level scoring's kernels on the CPU."""

from itertools import pairwise
from typing import Any

import torch

from sgl_indexcache.indexer.cpu.exact import Selector
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.shortlist import cpu
from sgl_indexcache.selection import Inputs, Rows, Terms


class CpuKernels:
    """`TwoLevelKernels` (indexer/kernels.py) over index keys in the model's dtype; selections are positions.

    budget_bytes  bound of the scores that are alive at a time
    """

    # A list a row: sharing lists by four rows costs recall, and saves little here.
    group = 1
    min_rows = 1
    # Their queries are projected together.
    max_rows = 1024

    judge = staticmethod(cpu.judge)
    verdicts = staticmethod(cpu.verdicts)

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes

    def select(self, inputs: Inputs, terms: Terms, out: torch.Tensor, *, rows: slice, max_length: int) -> None:
        request, length = inputs.request[rows].long(), inputs.lengths[rows].long()
        # Where a row does not follow on the one before, another span begins.
        cuts = (request[1:] != request[:-1]) | (length[1:] != length[:-1] + 1)
        starts = [0, *(cuts.nonzero().squeeze(1) + 1).tolist(), len(length)]
        spans = [(begin, end) for begin, end in pairwise(starts) if begin < end]
        laid_out = Rows.of(
            [int(request[begin]) for begin, _ in spans],
            [int(length[end - 1]) for _, end in spans],
            [end - begin for begin, end in spans],
            len(length),
        )
        slots = (inputs.page_table.unsqueeze(2) * PAGE + torch.arange(PAGE, dtype=torch.int32)).flatten(1)
        selector = Selector(out.shape[1], inputs.initial, inputs.local, self.budget_bytes)
        out[rows] = selector(lambda part: inputs.queries(_shifted(part, rows.start)), inputs.index_k, slots, laid_out)

    def summarise(self, index_k: torch.Tensor, *arguments: Any) -> torch.Tensor:
        return cpu.summarise(_by_page(index_k), *arguments)

    def list_pages(self, *arguments: Any, **options: Any) -> None:
        cpu.list_pages(*arguments, budget_bytes=self.budget_bytes, **options)

    def select_listed(
        self, queries: torch.Tensor, gates: torch.Tensor, index_k: torch.Tensor, *arguments: Any, **options: Any
    ) -> None:
        index_k = _by_page(index_k)
        cpu.select_listed(queries, gates, index_k, *arguments, budget_bytes=self.budget_bytes, **options)


def _by_page(index_k: torch.Tensor) -> torch.Tensor:
    """Index keys `[slots, D]` as `[KV pages, 64, D]`; slots behind the last whole page are left out."""
    pages = index_k.shape[0] // PAGE
    return index_k[: pages * PAGE].view(pages, PAGE, -1)


def _shifted(rows: slice | torch.Tensor, by: int) -> slice | torch.Tensor:
    return slice(rows.start + by, rows.stop + by) if isinstance(rows, slice) else rows + by
