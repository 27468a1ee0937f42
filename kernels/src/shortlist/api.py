"""Two-level scores on CUDA: the reference's functions with the reference's arguments, in Triton.

Shapes and dtypes are those of reference.py; queries are fp8 e4m3 with their scales folded into the gates, integers
are int32. `out` may be given, so that a captured graph writes where it was captured.
"""

import torch
import triton

from sgl_indexcache.kernels.shortlist.kernel import listed_scores_kernel, page_scores_kernel
from sgl_indexcache.kernels.shortlist.reference import PAGE, SCALE_BYTES

PAGES_PER_PROGRAM = 64
LISTED_PER_PROGRAM = 64
"""Listed pages of a program: its queries are loaded once."""
STAGES = 2
"""Of the pipeline of page loads."""
LEAST_HEADS = 16
"""Rows of the smallest matrix instruction; fewer heads are padded."""


def _heads(heads: int) -> int:
    return max(LEAST_HEADS, triton.next_power_of_2(heads))


def _check(q: torch.Tensor, w: torch.Tensor, packed: torch.Tensor, bytes_per_page: int) -> None:
    rows, heads, _ = q.shape
    if q.dtype != torch.float8_e4m3fn or not q.is_contiguous():
        raise ValueError(f"queries must be contiguous float8_e4m3fn, not {q.dtype}")
    if w.shape != (rows, heads) or w.dtype != torch.float32 or not w.is_contiguous():
        raise ValueError(f"gates must be contiguous float32 [{rows}, {heads}], not {w.dtype} {list(w.shape)}")
    if packed.dtype != torch.uint8 or packed.shape[1] != bytes_per_page or not packed.is_contiguous():
        raise ValueError(f"pages must be contiguous uint8 [pages, {bytes_per_page}], not {list(packed.shape)}")


def page_scores(
    q: torch.Tensor,
    w: torch.Tensor,
    summaries: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    pages: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scores float32 `[T, P]` of page summaries; see reference.page_scores. Raises ValueError for other layouts."""
    rows, heads, dim = q.shape
    _check(q, w, summaries, dim + SCALE_BYTES)
    width = page_table.shape[1]
    if out is None:
        out = torch.empty(rows, width, dtype=torch.float32, device=q.device)
    if rows and width:
        page_scores_kernel[(rows, triton.cdiv(width, PAGES_PER_PROGRAM))](
            q, w, summaries, page_table, request, pages, out, page_table.stride(0), out.stride(0), width,
            H=heads, HP=_heads(heads), D=dim, BN=PAGES_PER_PROGRAM,
        )  # fmt: skip
    return out


def listed_scores(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    listed: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scores float32 `[T, n * 64]` of listed pages' keys; see reference.listed_scores. Raises ValueError likewise."""
    rows, heads, dim = q.shape
    _check(q, w, index_k, PAGE * (dim + SCALE_BYTES))
    n = listed.shape[1]
    if out is None:
        out = torch.empty(rows, n * PAGE, dtype=torch.float32, device=q.device)
    if rows and n:
        listed_scores_kernel[(rows, triton.cdiv(n, LISTED_PER_PROGRAM))](
            q, w, index_k, page_table, request, listed, lengths, out,
            page_table.stride(0), listed.stride(0), out.stride(0), n,
            H=heads, HP=_heads(heads), D=dim, PAGE=PAGE, BP=LISTED_PER_PROGRAM, STAGES=STAGES,
        )  # fmt: skip
    return out
