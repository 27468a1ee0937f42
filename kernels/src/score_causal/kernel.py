"""Triton kernel of causal index scores: no product of a single head is stored."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import jit


@jit
def score_causal_kernel(
    q, k, gates, out, first, rows, keys, stride_q, stride_k, stride_g,
    H: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One tile [BM queries, BN keys] of one sequence; strides are those between sequences, in elements."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    key = tl.program_id(1) * BN + tl.arange(0, BN)
    column = tl.arange(0, D)
    total = tl.zeros((BM, BN), tl.float32)
    # A tile that lies wholly after its queries is only filled.
    if tl.program_id(1) * BN <= first + tl.program_id(0) * BM + BM - 1:
        keys_t = tl.load(k + batch * stride_k + key[None, :] * D + column[:, None], mask=key[None, :] < keys, other=0.0)
        for head in range(H):
            queries = tl.load(
                q + batch * stride_q + (row[:, None] * H + head) * D + column[None, :],
                mask=row[:, None] < rows,
                other=0.0,
            )
            gate = tl.load(gates + batch * stride_g + row * H + head, mask=row < rows, other=0.0)
            total += tl.maximum(tl.dot(queries, keys_t), 0.0) * gate[:, None]
    total = tl.where(key[None, :] <= first + row[:, None], total, float("-inf"))
    where = out + batch * rows * keys + row[:, None] * keys + key[None, :]
    tl.store(where, total, mask=(row[:, None] < rows) & (key[None, :] < keys))
