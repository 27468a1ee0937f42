"""Indexer scores on CUDA over page-packed keys, read in place; the formula is reference.py's times the key's scale."""

from dataclasses import dataclass

import torch
import triton

from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES
from sgl_indexcache.kernels.score.kernel import score_kernel
from sgl_indexcache.kernels.select.cuda import BLOCK

MIN_COLUMNS = 16
"""Heads are padded to this number, so that a row alone is a matrix instruction."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the score kernel cuts its work.

    columns    queries x heads of a program, of at most 8 queries
    warps      of a program; stages of its pipeline of key loads
    registers  a thread may hold; None leaves it to the compiler
    through_registers  keys reach the tensor cores through registers instead of from shared memory
    """

    columns: int = 128
    warps: int = 4
    stages: int = 3
    registers: int | None = None
    through_registers: bool = False


DEFAULT = Shape()
PROGRAMS = 4096
"""Programs of a launch, about: eight to a multiprocessor at a time, four times over."""
MAX_QUERIES = 8
"""Queries of a program: every eight columns of a tile hold each of them."""
MIN_PAGES = 8
"""Pages of a program at least: its queries are loaded once."""


def padded(length: int) -> int:
    """Columns of a logits matrix for rows of at most `length` keys: whole pages."""
    return -(-length // PAGE) * PAGE


def check(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
) -> None:
    """Raise ValueError for other layouts than documented; none of the kernels looks again."""
    rows, heads, dim = q.shape
    if q.dtype != torch.float8_e4m3fn or not q.is_contiguous():
        raise ValueError(f"queries must be contiguous float8_e4m3fn [T, H, D], not {q.dtype}")
    if weights.shape != (rows, heads) or weights.dtype != torch.float32 or not weights.is_contiguous():
        raise ValueError(f"gates must be contiguous float32 [{rows}, {heads}], not {weights.dtype} {[*weights.shape]}")
    if index_k.dtype != torch.uint8 or index_k.shape[1] != PAGE * (dim + SCALE_BYTES) or not index_k.is_contiguous():
        raise ValueError(f"pages must be contiguous uint8 [pages, {PAGE * (dim + SCALE_BYTES)}]")
    if page_table.dtype != torch.int32 or page_table.stride(1) != 1:
        raise ValueError("page_table must be int32 [B, P] with unit stride in a row")
    for name, tensor in (("request", request), ("lengths", lengths)):
        if tensor.shape != (rows,) or tensor.dtype != torch.int32 or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous int32 [{rows}], not {tensor.dtype} {[*tensor.shape]}")


def score_paged(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    *,
    max_length: int,
    initial: int = 0,
    local: int = 0,
    unscored: int = 0,
    out: torch.Tensor | None = None,
    maxima: torch.Tensor | None = None,
    shape: Shape = DEFAULT,
) -> torch.Tensor:
    """Logits float32 `[T, W]`, W = padded(max_length): key p < lengths[t] of row t in column p, the rest undefined.

    q           float8_e4m3fn [T, H, D], H <= 128, D a power of two of at least 32
    weights     float32 [T, H], every constant folded in
    index_k     uint8 [pages, 64 * (D + 4)]: 64 fp8 keys, then their 64 float32 scales (SGLang's
                mem_cache/memory_pool.py:4398)
    page_table  int32 [B, P], P * 64 >= max_length; request int32 [T] is each row's line in it
    lengths     int32 [T]; rows of at most `unscored` keys are not scored
    initial     first and `local` last positions of each row score +inf
    maxima      float32 [T, >= W / 16], written with the maximum of every 16 keys if given

    Launches one kernel; never waits for the device. Raises ValueError for other layouts.
    """
    check(q, weights, index_k, page_table, request, lengths)
    rows, heads, dim = q.shape
    width = padded(max_length)
    if out is None:
        out = torch.empty(rows, width, dtype=torch.float32, device=q.device)
    if rows == 0 or width == 0:
        return out
    wide = max(MIN_COLUMNS, triton.next_power_of_2(heads))
    queries = min(max(1, shape.columns // wide), MAX_QUERIES, triton.next_power_of_2(rows))
    groups, pages = triton.cdiv(rows, queries), width // PAGE
    chunk = max(MIN_PAGES, triton.cdiv(pages * groups, PROGRAMS))
    limit = {} if shape.registers is None else {"maxnreg": shape.registers}
    score_kernel[(groups, triton.cdiv(pages, chunk))](
        q, weights, index_k, page_table, request, lengths, out, out if maxima is None else maxima,
        rows, page_table.stride(0), out.stride(0), 0 if maxima is None else maxima.stride(0), chunk, unscored,
        initial, local,
        H=heads, HP=wide, D=dim, BQ=queries, BLOCK=BLOCK, FORCED=initial > 0 or local > 0,
        MAXIMA=maxima is not None, STAGES=shape.stages, REGISTERS=shape.through_registers,
        num_warps=shape.warps, **limit,
    )  # fmt: skip
    return out
