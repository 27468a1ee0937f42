"""Triton kernels of two-level scoring: summaries and index-K pages are read in place.

Both are one product of a row's heads with the keys of a tile: the heads fill a side of a matrix instruction, so a
shortlist of a row's own needs no more matrix work than one shared by a block of rows. It needs more reading, from L2.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weighed(q, w, row, keys, scale, H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scores float32 [N] of fp8 keys [D, N] with float32 scales [N] for one row's heads; HP pads H."""
    head = tl.arange(0, HP)
    column = tl.arange(0, D)
    queries = tl.load(q + (row * H + head[:, None]) * D + column[None, :], mask=(head < H)[:, None], other=0.0)
    gates = tl.load(w + row * H + head, mask=head < H, other=0.0)
    products = tl.dot(queries, keys)
    # Scales are positive, so they may follow the rectifier.
    return tl.sum(tl.maximum(products, 0.0) * gates[:, None], 0) * scale


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def page_scores_kernel(  # type: ignore[no-untyped-def]
    q, w, summaries, page_table, request, pages, out, table_stride, out_stride, width,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Program (t, b): row t against pages b * BN ... of its request."""
    row = tl.program_id(0).to(tl.int64)
    page = tl.program_id(1) * BN + tl.arange(0, BN)
    count = tl.load(pages + row)
    total = tl.full((BN,), float("-inf"), tl.float32)
    if tl.program_id(1) * BN < count:
        seen = page < count
        owner = tl.load(request + row).to(tl.int64)
        where = tl.load(page_table + owner * table_stride + page, mask=seen, other=0).to(tl.int64) * (D + 4)
        column = tl.arange(0, D)
        raw = tl.load(summaries + where[None, :] + column[:, None], mask=seen[None, :], other=0)
        scale = tl.load((summaries + where + D).to(tl.pointer_type(tl.float32)), mask=seen, other=0.0)
        found = _weighed(q, w, row, raw.to(tl.float8e4nv, bitcast=True), scale, H, HP, D)
        total = tl.where(seen, found, total)
    tl.store(out + row * out_stride + page, total, mask=page < width)


@triton.jit(do_not_specialize=["n", "table_stride"])  # type: ignore[untyped-decorator, unused-ignore]
def listed_scores_kernel(  # type: ignore[no-untyped-def]
    q, w, index_k, page_table, request, listed, lengths, out, table_stride, listed_stride, out_stride, n,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (t, c): row t against the keys of its listed pages c * BP ... of n.

    A page's 64 keys are the rows of a `wgmma`, the heads its columns, so that a load feeds the tensor cores from shared
    memory and the sum over heads stays within four lanes.
    """
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, PAGE)
    column = tl.arange(0, D)
    head = tl.arange(0, HP)
    queries = tl.load(q + (row * H + head[:, None]) * D + column[None, :], mask=(head < H)[:, None], other=0.0)
    queries = tl.trans(queries)
    gates = tl.load(w + row * H + head, mask=head < H, other=0.0)
    table = page_table + tl.load(request + row).to(tl.int64) * table_stride
    length = tl.load(lengths + row)
    begin = tl.program_id(1) * BP
    end = tl.minimum(begin + BP, n)
    listed += row * listed_stride
    page = tl.load(listed + begin)
    where = tl.load(table + tl.maximum(page, 0)).to(tl.int64)
    for nth in tl.range(begin, end, num_stages=STAGES):
        keys = index_k + where * (PAGE * (D + 4))
        first = page * PAGE
        # One page ahead: the address of the next load waits for nothing.
        page = tl.load(listed + tl.minimum(nth + 1, end - 1))
        where = tl.load(table + tl.maximum(page, 0)).to(tl.int64)
        tile = tl.load(keys.to(tl.pointer_type(tl.float8e4nv)) + slot[:, None] * D + column[None, :])
        scale = tl.load((keys + PAGE * D).to(tl.pointer_type(tl.float32)) + slot)
        products = tl.dot(tile, queries)
        # Scales are positive, so they may follow the rectifier.
        total = tl.sum(tl.maximum(products, 0.0) * gates[None, :], 1) * scale
        seen = (first >= 0) & (first + slot < length)
        tl.store(out + row * out_stride + nth * PAGE + slot, tl.where(seen, total, float("-inf")))
