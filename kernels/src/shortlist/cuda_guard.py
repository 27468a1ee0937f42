"""The recall guard on CUDA: samples of a prefill against the lists of their groups, and contexts by their samples."""

import torch
import triton

from sgl_indexcache.kernels.select.cuda import MAX_K
from sgl_indexcache.kernels.shortlist.guard_kernel import judge_kernel, verdicts_kernel
from sgl_indexcache.kernels.shortlist.records import JUDGED_PAGES

PAGES_AT_ONCE = 128
"""Pages whose records a program looks at together."""


def judge(
    exact: torch.Tensor,
    listed: torch.Tensor,
    group: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    guard: torch.Tensor,
    counts: torch.Tensor,
    *,
    counted: bool,
) -> None:
    """Add S samples of one request's prefill to the records of their pages; see reference.judge.

    exact       int32 [S, k], contiguous: positions of exact selections, -1 for none
    listed      int32 [G, n + 1] pages of the request that each group lists, ascending, unit stride in a row;
    group       int32 [S], the group of each sample, whose own page is its list's last
    page_table  int32 [P], KV pages of the request; lengths int32 [S], keys that each sample sees
    guard       int32 [KV pages, 2], contiguous: positions that a page's samples should have found, and have found
    counts      int64 [>= 2]: samples and positions found, added to if `counted`

    Launches one kernel. Raises ValueError for other layouts.
    """
    samples, k = exact.shape
    if group.shape != (samples,) or lengths.shape != (samples,):
        raise ValueError(f"group and lengths must have one entry for each of {samples} samples")
    if any(tensor.dtype != torch.int32 for tensor in (exact, listed, group, page_table, lengths, guard)):
        raise ValueError("samples, lists, pages and records must be int32")
    if not exact.is_contiguous() or not guard.is_contiguous() or listed.stride(1) != 1:
        raise ValueError("samples and records must be contiguous, lists have unit stride in a row")
    if samples == 0:
        return
    n = listed.shape[1] - 1
    judge_kernel[(samples,)](
        exact, listed, group, page_table, lengths, guard, counts, n, k, listed.stride(0), int(counted),
        # As many as the longest list takes: one kernel for all.
        KP=triton.next_power_of_2(k), STEPS=steps(MAX_K),
    )  # fmt: skip


def verdicts(
    guard: torch.Tensor,
    page_table: torch.Tensor,
    requests: torch.Tensor,
    complete: torch.Tensor,
    need: int,
    floor: float,
    out: torch.Tensor,
) -> None:
    """Write which contexts are to be scored exactly into out int64 `[L, R]`, 0 or 1; see reference.verdicts.

    guard       int32 [L, KV pages, 2], see `judge`; page_table int32 [B, P]
    requests    int32 [R], lines of the page table; complete int32 [R], pages before the context's first new row
    need        positions that the latest samples must make up; of fewer nothing is said
    floor       share of them that must have been found

    Looks at JUDGED_PAGES before each row at most. Launches one kernel.
    """
    layers, count = out.shape
    verdicts_kernel[(layers, count)](
        guard, page_table, requests, complete, out, guard.stride(0), page_table.stride(0), out.stride(0), need, floor,
        AT_ONCE=PAGES_AT_ONCE, JUDGED=JUDGED_PAGES,
    )  # fmt: skip


def steps(n: int) -> int:
    """Halvings that find a page among n + 1."""
    return (n + 1).bit_length()
