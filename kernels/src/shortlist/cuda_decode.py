"""Two-level scoring of decode steps on CUDA: one row a request, fit for CUDA graphs."""

import torch
import triton

from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES
from sgl_indexcache.kernels.score.cuda import DEFAULT, MIN_COLUMNS, Shape
from sgl_indexcache.kernels.score_select.cuda import score_select
from sgl_indexcache.kernels.select.cuda import BLOCK, select
from sgl_indexcache.kernels.shortlist.cuda_guard import PAGES_AT_ONCE, steps
from sgl_indexcache.kernels.shortlist.decode_kernel import (
    lay_lists_kernel,
    score_pages_kernel,
    settle_kernel,
    summarise_rows_kernel,
)
from sgl_indexcache.kernels.shortlist.records import JUDGED_PAGES, Judgement, Records


def select_decoded(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    records: Records,
    n: int,
    k: int,
    judgement: Judgement,
    *,
    window: int,
    slots: bool,
    initial: int = 0,
    local: int = 0,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the selection of T rows, each the last of its request, into out int32 `[T, k]`; see
    reference.select_decoded.

    q           float8_e4m3fn [T, H, D] and w float32 [T, H]; index_k uint8 [KV pages, 64 * (D + 4)]
    page_table  int32 [T, P], KV pages of each request; lengths int32 [T], keys that each row sees, 0 for padding
    n           pages that a row lists beside its own; a row with no more before its own lists all
    window      pages just before a row's own that are always listed, as is the first
    slots       the result holds KV slots, else positions of the request
    initial, local  see score_select, at most 64 and 64 times the window

    Missing summaries are made. Launches depend on shapes alone. Raises ValueError for other layouts.
    """
    rows, heads, dim = q.shape
    width = page_table.shape[1]
    if page_table.shape[0] != rows or lengths.shape != (rows,):
        raise ValueError(f"page_table and lengths must have a line for each of {rows} rows")
    if records.summaries.shape != (index_k.shape[0], dim + SCALE_BYTES) or not records.summaries.is_contiguous():
        raise ValueError(f"summaries must be contiguous uint8 [{index_k.shape[0]}, {dim + SCALE_BYTES}]")
    if rows == 0:
        return
    device = q.device

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    table_stride = page_table.stride(0)
    summarise_rows_kernel[(rows, triton.cdiv(width, PAGES_AT_ONCE))](
        index_k, page_table, lengths, records.summaries, records.has_summary, table_stride, D=dim, AT_ONCE=PAGES_AT_ONCE
    )
    columns = triton.cdiv(width, PAGE) * PAGE
    scores, maxima = empty(rows, columns, dtype=torch.float32), empty(rows, columns // BLOCK, dtype=torch.float32)
    complete = empty(rows)
    wide = max(MIN_COLUMNS, triton.next_power_of_2(heads))
    score_pages_kernel[(rows, columns // PAGE)](
        q, w, records.summaries, page_table, lengths, scores, maxima, complete, table_stride, scores.stride(0),
        maxima.stride(0), window, H=heads, HP=wide, D=dim, BLOCK=BLOCK,
    )  # fmt: skip
    listed = empty(rows, n + 1)
    select(scores, complete, n, max_length=width, maxima=maxima, out=listed[:, :n])

    pages, visible, judged, fallen = torch.empty_like(listed), empty(rows), empty(rows), empty(rows)
    lay_lists_kernel[(rows,)](
        listed, page_table, lengths, records.guard, pages, visible, judged, fallen, n, table_stride, listed.stride(0),
        judgement.every, judgement.need, judgement.floor,
        LP=triton.next_power_of_2(n + 1), AT_ONCE=PAGES_AT_ONCE, JUDGED=JUDGED_PAGES,
    )  # fmt: skip
    ramp = torch.arange(rows, dtype=torch.int32, device=device)
    # Rows of several requests list different pages, so a program takes one.
    alone = Shape(columns=min(DEFAULT.columns, wide))
    score_select(
        q, w, index_k, pages, ramp, visible, k, max_length=(n + 1) * PAGE, initial=initial, local=local,
        names=pages if slots else listed, budget_bytes=budget_bytes, out=out, shape=alone,
    )  # fmt: skip
    exact = empty(rows, k)
    score_select(
        q, w, index_k, page_table, ramp, judged, k, max_length=width * PAGE, initial=initial, local=local,
        budget_bytes=budget_bytes, out=exact, shape=alone,
    )  # fmt: skip
    settle_kernel[(rows,)](
        exact, listed, page_table, judged, fallen, records.guard, records.counts, out, n, k, table_stride,
        listed.stride(0), out.stride(0), judgement.every, int(slots),
        KP=triton.next_power_of_2(k), STEPS=steps(n),
    )  # fmt: skip
