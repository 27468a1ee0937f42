"""Score and select, some rows at a time, so that the logits alive never exceed a budget."""

from functools import cache

import torch

from sgl_indexcache.kernels.score.cuda import DEFAULT, Shape, check, padded, score_paged
from sgl_indexcache.kernels.select.cuda import BLOCK, Cut, select

ALIGNED_ROWS = 16
"""Slices begin at multiples of this, so that every pointer keeps its alignment and no kernel compiles twice."""


def rows_at_once(rows: int, max_length: int, budget_bytes: int, device: torch.device) -> int:
    """Rows whose logits and maxima fit the budget, at least ALIGNED_ROWS; near equal slices.

    The selection of a row fills one of a CUDA device's processors, so a slice takes whole rounds of them if it can.
    """
    processors = _processors(device)
    row_bytes = 4 * (padded(max_length) + padded(max_length) // BLOCK)
    max_rows = max(1, budget_bytes // max(row_bytes, 1) // ALIGNED_ROWS) * ALIGNED_ROWS
    if max_rows >= max(processors, ALIGNED_ROWS):
        max_rows = max_rows // processors * processors // ALIGNED_ROWS * ALIGNED_ROWS
    slices = -(-rows // max_rows)
    return -(-rows // (slices * ALIGNED_ROWS)) * ALIGNED_ROWS


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def score_select(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    max_length: int,
    initial: int = 0,
    local: int = 0,
    names: torch.Tensor | None = None,
    budget_bytes: int = 256 << 20,
    out: torch.Tensor | None = None,
    shape: Shape = DEFAULT,
    cut: Cut | None = None,
) -> torch.Tensor:
    """Selection int32 `[T, k]`: positions ascending, packed at the front, -1 padded; ties to the lower position.

    q           float8_e4m3fn [T, H, 128] index queries
    weights     float32 [T, H] head gates with H^-0.5, D^-0.5 and q's scale folded in
    index_k     uint8 [pages, 64 * (128 + 4)] page-packed index keys, read in place
    page_table  int32 [B, P] pages of each request; request int32 [T] is each row's line in it
    lengths     int32 [T] keys that a row may look at; 0 is a padding row and selects nothing
    max_length  bound of lengths, known to the host
    initial     first and `local` last positions are selected before all others
    names       int32 [B, >= P] what each page is called in the result: names[b, p // 64] * 64 + p % 64 for position p.
                With page_table itself these are KV slots; None gives positions
    budget_bytes  bound of the logits that are alive, but at least 16 rows
    out         int32 [T, k] to write to
    shape, cut  how the two kernels are cut; for measurements

    Fit for CUDA graphs: launches depend on shapes and max_length alone. Raises ValueError for other layouts.
    """
    rows = q.shape[0]
    if out is None:
        out = torch.empty(rows, k, dtype=torch.int32, device=q.device)
    if rows == 0:
        return out
    step = rows_at_once(rows, max_length, budget_bytes, q.device)
    width = padded(max_length)
    scored = max_length > k
    logits = torch.empty(min(step, rows) if scored else 1, width, dtype=torch.float32, device=q.device)
    if not scored:
        check(q, weights, index_k, page_table, request, lengths)
        # Nobody reads them. One row stands for all, with a stride of 0, which takes the same kernel as whole pages.
        logits = logits.expand(min(step, rows), -1)
    maxima = torch.empty(min(step, rows), width // BLOCK, dtype=torch.float32, device=q.device)
    for first in range(0, rows, step):
        part = slice(first, min(rows, first + step))
        here = part.stop - part.start
        if scored:
            score_paged(
                q[part], weights[part], index_k, page_table, request[part], lengths[part],
                max_length=max_length, initial=initial, local=local, unscored=k,
                out=logits[:here], maxima=maxima[:here], shape=shape,
            )  # fmt: skip
        select(
            logits[:here], lengths[part], k, max_length=max_length, maxima=maxima[:here],
            names=names, request=None if names is None else request[part],
            out=out[part], cut=cut,
        )  # fmt: skip
    return out
