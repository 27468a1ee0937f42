"""Attention's distribution, summed over heads, in two Triton passes: no head's matrix is stored.

Plain torch writes and reads [heads, rows, keys] several times (logits, masked, softmax, mean); here the first pass
keeps the log of each softmax's denominator, [heads, rows], and the second adds up the heads of a tile in registers
and writes [rows, keys] once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import jit


@jit
def _tile(
    q, k, row, key, column, head, rows, keys, stride_qh, stride_qr, stride_kh, stride_kr, scale, D: tl.constexpr
):  # fmt: skip
    """Logits [ROWS, KEYS] of one head, float32."""
    queries = tl.load(
        q + head * stride_qh + row[:, None].to(tl.int64) * stride_qr + column[None, :],
        mask=(row[:, None] < rows) & (column[None, :] < D),
        other=0.0,
    )
    keys_t = tl.load(
        k + head * stride_kh + key[None, :].to(tl.int64) * stride_kr + column[:, None],
        mask=(key[None, :] < keys) & (column[:, None] < D),
        other=0.0,
    )
    return tl.dot(queries, keys_t, input_precision="ieee") * scale


@jit
def denominators_kernel(
    q, k, visible, out, rows, keys,
    stride_qb, stride_qh, stride_qr, stride_kb, stride_kh, stride_kr, scale,
    H: tl.constexpr, D: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """log sum exp over visible keys of BM rows of one head: out [B, H, rows] float32."""
    batch, head = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, W)
    largest = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for tile in range(TILES):
        key = tile * BN + tl.arange(0, BN)
        inside = (row[:, None] < rows) & (key[None, :] < keys)
        mask = tl.load(visible + (batch * rows + row[:, None]) * keys + key[None, :], mask=inside, other=0) != 0
        logits = _tile(
            q + batch * stride_qb, k + batch * stride_kb, row, key, column, head, rows, keys,
            stride_qh, stride_qr, stride_kh, stride_kr, scale, D,
        )  # fmt: skip
        logits = tl.where(mask, logits, -1e30)
        new = tl.maximum(largest, tl.max(logits, 1))
        total = total * tl.exp(largest - new) + tl.sum(tl.where(mask, tl.exp(logits - new[:, None]), 0.0), 1)
        largest = new
    tl.store(out + (batch * H + head) * rows + row, largest + tl.log(total), mask=row < rows)


@jit
def summed_kernel(
    q, k, visible, denominators, out, rows, keys,
    stride_qb, stride_qh, stride_qr, stride_kb, stride_kh, stride_kr, scale,
    H: tl.constexpr, D: tl.constexpr, W: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The mean over heads of exp(logits - denominator) of one tile: out [B, rows, keys] float32."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    key = tl.program_id(1) * BN + tl.arange(0, BN)
    column = tl.arange(0, W)
    inside = (row[:, None] < rows) & (key[None, :] < keys)
    where = (batch * rows + row[:, None]) * keys + key[None, :]
    mask = tl.load(visible + where, mask=inside, other=0) != 0
    total = tl.zeros((BM, BN), tl.float32)
    # Nothing to add where a whole tile lies after its queries, or outside their documents and selections.
    if tl.max(tl.max(mask.to(tl.int32), 1), 0) > 0:
        for head in range(H):
            logits = _tile(
                q + batch * stride_qb, k + batch * stride_kb, row, key, column, head, rows, keys,
                stride_qh, stride_qr, stride_kh, stride_kr, scale, D,
            )  # fmt: skip
            below = tl.load(denominators + (batch * H + head) * rows + row, mask=row < rows, other=0.0)
            total += tl.where(mask, tl.exp(logits - below[:, None]), 0.0)
    tl.store(out + where, total / H, mask=inside)
