"""Causal index scores on CUDA in one Triton kernel, forward only.

reference.py writes [B, R, H, S] products to memory and reads them again: 2 GB a sequence and layer with 16 heads at
8,192 tokens. Here they stay in registers. Only training's forward needs it.
"""

import torch
import triton

from sgl_indexcache.kernels.score_causal.kernel import score_causal_kernel

QUERIES, KEYS = 64, 128
"""A tile of scores."""


def score_causal(q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor, first: int) -> torch.Tensor:
    """Scores float32 `[B, R, S]`; keys after position first + r of query r score -inf.

    q      [B, R, H, D] and k [B, S, D] of 16-bit floats, slices of contiguous tensors along R and S; D a power of two
           of at least 16
    gates  float32 [B, R, H], likewise

    Launches one kernel. Raises ValueError for other strides.
    """
    batch, rows, heads, width = q.shape
    keys = k.shape[1]
    for tensor, inner in ((q, heads * width), (k, width), (gates, heads)):
        if tensor.stride(1) != inner or tensor.stride(-1) != 1:
            raise ValueError("q, k and gates must be contiguous within a sequence")
    out = torch.empty(batch, rows, keys, dtype=torch.float32, device=q.device)
    grid = (triton.cdiv(rows, QUERIES), triton.cdiv(keys, KEYS), batch)
    score_causal_kernel[grid](
        q, k, gates, out, first, rows, keys, q.stride(0), k.stride(0), gates.stride(0),
        H=heads, D=width, BM=QUERIES, BN=KEYS, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
