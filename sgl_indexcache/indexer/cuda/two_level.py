"""Two-level scoring's kernels on CUDA."""

from typing import Any

import torch

from sgl_indexcache.indexer.cuda.select import select
from sgl_indexcache.kernels.shortlist import GROUP, cuda, cuda_guard
from sgl_indexcache.selection import Inputs, Terms


class CudaKernels:
    """`TwoLevelKernels` (indexer/kernels.py) over SGLang's page-packed fp8 keys; nothing waits for the device.

    budget_bytes  bound of the scores that are alive at a time
    """

    group = GROUP
    # What is launched for the lists of a single row takes longer than scoring it exactly.
    min_rows = 2
    max_rows = 1 << 30

    summarise = staticmethod(cuda.summarise)
    judge = staticmethod(cuda_guard.judge)
    verdicts = staticmethod(cuda_guard.verdicts)

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes

    def select(self, inputs: Inputs, terms: Terms, out: torch.Tensor, *, rows: slice, max_length: int) -> None:
        select(inputs, terms, out, rows=rows, max_length=max_length, budget_bytes=self.budget_bytes)

    def list_pages(self, *arguments: Any, **options: Any) -> None:
        cuda.list_pages(*arguments, budget_bytes=self.budget_bytes, **options)

    def select_listed(self, *arguments: Any, **options: Any) -> None:
        cuda.select_listed(*arguments, budget_bytes=self.budget_bytes, **options)
