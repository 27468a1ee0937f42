"""Two-level scoring on CUDA: summaries of pages, and the two calls of `score_select` that they make possible."""

from functools import lru_cache

import torch
import triton

from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES
from sgl_indexcache.kernels.score.cuda import DEFAULT, MIN_COLUMNS, Shape
from sgl_indexcache.kernels.score_select.cuda import score_select
from sgl_indexcache.kernels.shortlist.cuda_decode import select_decoded
from sgl_indexcache.kernels.shortlist.cuda_guard import judge, verdicts
from sgl_indexcache.kernels.shortlist.kernel import summarise_kernel
from sgl_indexcache.kernels.shortlist.lists import GROUP

__all__ = ["judge", "list_pages", "select_decoded", "select_listed", "summarise", "verdicts"]

COMMON_PAGES = 4096
"""Contexts of up to so many pages, 262,144 tokens, share one kernel."""


def summarise(
    index_k: torch.Tensor, page_table: torch.Tensor, summaries: torch.Tensor, has_summary: torch.Tensor, pages: int
) -> torch.Tensor:
    """Summaries of a request's first `pages` pages, laid out as keys are: uint8 `[ceil(pages / 64), 64 * (D + 4)]`.

    index_k      uint8 [KV pages, 64 * (D + 4)], all 64 keys of these pages written
    page_table   int32 [>= pages], the KV page of each
    summaries    uint8 [KV pages, D + 4] and
    has_summary  uint8 [KV pages]: a page that has none yet is summarised, and its summary kept

    Entries past `pages` are undefined. Raises ValueError for other layouts; launches one kernel.
    """
    dim = index_k.shape[1] // PAGE - SCALE_BYTES
    if index_k.dtype != torch.uint8 or not index_k.is_contiguous() or not summaries.is_contiguous():
        raise ValueError("index keys and summaries must be contiguous uint8")
    if summaries.dtype != torch.uint8 or summaries.shape != (index_k.shape[0], dim + SCALE_BYTES):
        raise ValueError(f"summaries must be uint8 [{index_k.shape[0]}, {dim + SCALE_BYTES}], not {[*summaries.shape]}")
    if has_summary.dtype != torch.uint8 or has_summary.shape != summaries.shape[:1] or not has_summary.is_contiguous():
        raise ValueError(f"has_summary must be contiguous uint8 [{index_k.shape[0]}]")
    if page_table.dtype != torch.int32 or page_table.stride(0) != 1 or page_table.shape[0] < pages:
        raise ValueError(f"page_table must be int32 with unit stride and at least {pages} entries")
    packed = torch.empty(triton.cdiv(pages, PAGE), PAGE * (dim + SCALE_BYTES), dtype=torch.uint8, device=index_k.device)
    if pages:
        summarise_kernel[(pages,)](index_k, page_table, summaries, has_summary, packed, D=dim)
    return packed


@lru_cache(maxsize=32)
def _constants(pages: int, rows: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The page table of summaries, int32 [1, pages], and that every row finds its pages there, int32 [rows]."""
    table = torch.arange(pages, dtype=torch.int32, device=device).unsqueeze(0)
    return table, torch.zeros(rows, dtype=torch.int32, device=device)


def list_pages(
    q: torch.Tensor,
    w: torch.Tensor,
    packed: torch.Tensor,
    complete: torch.Tensor,
    n: int,
    *,
    max_complete: int,
    window: int,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the pages that G groups list into out int32 `[G, n]`, ascending; see reference.list_pages.

    q float8_e4m3fn [G, H, D] and w float32 [G, H] of the groups' first rows; packed as `summarise` gives it;
    complete int32 [G], above n and at most `max_complete`. The first page and the last `window` are always listed.
    """
    # One size for contexts of up to COMMON_PAGES: every power of two would be another kernel to compile while serving.
    bound = max(COMMON_PAGES, triton.next_power_of_2(max_complete))
    table, one = _constants(bound // PAGE, triton.next_power_of_2(q.shape[0]), q.device)
    score_select(
        q, w, packed, table, one[: q.shape[0]], complete, n,
        max_length=bound, initial=1, local=window, budget_bytes=budget_bytes, out=out,
    )  # fmt: skip


def select_listed(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    pages: torch.Tensor,
    group: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    names: torch.Tensor,
    initial: int = 0,
    local: int = 0,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the selection of T rows among their groups' pages into out int32 `[T, k]`; see reference.select_listed.

    pages    int32 [G, n + 1], KV pages that each group lists, its own page last; group int32 [T], ascending
    lengths  int32 [T], keys of these pages that each row sees
    names    int32 [G, n + 1], what the pages are called in the result: pages of the request for positions, `pages` for
             KV slots
    initial, local  see score_select, at most 64 and 64 times the window: the pages that hold them are always listed
    """
    # A program of the score kernel takes rows of one group, which share every load of a page.
    wide = max(MIN_COLUMNS, triton.next_power_of_2(q.shape[1]))
    score_select(
        q, w, index_k, pages, group, lengths, k,
        max_length=pages.shape[1] * PAGE, initial=initial, local=local, names=names, budget_bytes=budget_bytes, out=out,
        shape=Shape(columns=min(DEFAULT.columns, GROUP * wide)),
    )  # fmt: skip
