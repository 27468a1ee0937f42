"""Lists of pages in torch: which pages a row lists, and what a column of their scores stands for."""

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.select.cpu import select

GROUP = 4
"""Rows, at positions that are equal up to the remainder by 4, that share the shortlist of the first of them on CUDA:
recall 0.909 for 0.926 with lists of their own (docs/results/two-level.md)."""


def choose_pages(scores: torch.Tensor, forced: torch.Tensor, pages: torch.Tensor, n: int) -> torch.Tensor:
    """Listed pages int32 `[T, n]`: the `forced` ones (bool [T, P]), then the best of `scores [T, P]`.

    Row t chooses among its first `pages[t]`, at least n; of equal scores the lower page wins. At most n are forced.
    Overwrites `scores`.
    """
    return select(scores.masked_fill_(forced, float("inf")), pages, n)


def to_positions(picks: torch.Tensor, listed: torch.Tensor) -> torch.Tensor:
    """Positions, in `picks`' dtype, of columns `picks [T, k]` of the listed pages' scores; -1 stays -1."""
    page = listed.gather(1, (picks.clamp(min=0) // PAGE).long())
    return torch.where(picks < 0, -1, page * PAGE + picks % PAGE).to(picks.dtype)
