"""Two-level scoring's kernels on the CPU."""

from itertools import pairwise
from typing import Any

import torch

from sgl_indexcache.indexer.cpu.exact import Selector
from sgl_indexcache.kernels.shortlist import PAGE, cpu
from sgl_indexcache.selection import Inputs, Rows, Terms


class CpuKernels:
    """`TwoLevelKernels` (indexer/kernels.py) over index keys in the model's dtype; selections are positions.

    topk          positions of a selection
    budget_bytes  bound of the scores that are alive at a time
    """

    # A list a row: sharing lists by four rows costs recall, and saves little here.
    group = 1
    min_rows = 1
    # Their queries are projected together.
    max_rows = 1024

    summarise = staticmethod(cpu.summarise)
    judge = staticmethod(cpu.judge)
    verdicts = staticmethod(cpu.verdicts)

    def __init__(self, topk: int, budget_bytes: int) -> None:
        self.topk, self.budget_bytes = topk, budget_bytes

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
        selector = Selector(self.topk, inputs.initial, inputs.local, self.budget_bytes)
        out[rows] = selector(lambda part: inputs.queries(_shifted(part, rows.start)), inputs.index_k, slots, laid_out)

    def list_pages(self, *arguments: Any, max_complete: int, **options: Any) -> None:
        cpu.list_pages(*arguments, budget_bytes=self.budget_bytes, **options)

    def select_listed(self, *arguments: Any, **options: Any) -> None:
        cpu.select_listed(*arguments, self.topk, **options)


def _shifted(rows: slice | torch.Tensor, by: int) -> slice | torch.Tensor:
    return slice(rows.start + by, rows.stop + by) if isinstance(rows, slice) else rows + by
