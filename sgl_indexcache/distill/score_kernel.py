"""Exact index scores of all rows in one Triton kernel, forward only: no product of a single head is stored.

The plain version writes [B, R, 16 heads, S] numbers to memory and reads them again, 2 GB a sequence and layer
at 8,192 tokens; here they stay in registers. Training's forward is all that needs it, so it is kept apart
from the serving kernels and their page layout.
"""

import torch
import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _score(  # type: ignore[no-untyped-def]
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


def score_causal_kernel(q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor, first: int) -> torch.Tensor:
    """A Scorer (see indexing.py). q [B, R, H, D] and k [B, S, D] bf16, slices of contiguous tensors along R
    and S; gates float32 [B, R, H]; D a power of two of at least 16."""
    batch, rows, heads, width = q.shape
    keys = k.shape[1]
    out = torch.empty(batch, rows, keys, dtype=torch.float32, device=q.device)
    for tensor, inner in ((q, heads * width), (k, width), (gates, heads)):
        if tensor.stride(1) != inner or tensor.stride(-1) != 1:
            raise ValueError("q, k and gates must be contiguous within a sequence")
    block_rows, block_keys = 64, 128
    grid = (triton.cdiv(rows, block_rows), triton.cdiv(keys, block_keys), batch)
    _score[grid](
        q, k, gates, out, first, rows, keys, q.stride(0), k.stride(0), gates.stride(0),
        H=heads, D=width, BM=block_rows, BN=block_keys, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
