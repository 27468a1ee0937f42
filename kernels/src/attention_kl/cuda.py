"""Attention's distribution on CUDA, in two Triton passes that store no head's matrix."""

import torch
import triton

from sgl_indexcache.kernels.attention_kl.kernel import denominators_kernel, summed_kernel

ROWS, KEYS = 32, 64
"""A tile; wide heads (192 columns) still fit into registers."""
MIN_WIDTH = 16
"""Columns are padded to this number at least, which a matrix instruction takes."""


def attention_distribution(q: torch.Tensor, k: torch.Tensor, visible: torch.Tensor, scale: float) -> torch.Tensor:
    """p float32 [B, R, S]: attention summed over heads and normalised; zero at keys that are not visible.

    q [B, h, R, d] and k [B, h, S, d] in bf16, fp16 or fp32 may be strided, but for their last dimension; visible bool
    [B, R, S]. Raises ValueError for other strides.
    """
    batch, heads, rows, width = q.shape
    keys = k.shape[2]
    if q.stride(-1) != 1 or k.stride(-1) != 1:
        raise ValueError("the columns of q and k must be contiguous")
    mask = visible.expand(batch, rows, keys).contiguous().view(torch.uint8)
    below = torch.empty(batch, heads, rows, dtype=torch.float32, device=q.device)
    out = torch.empty(batch, rows, keys, dtype=torch.float32, device=q.device)
    strides = (*q.stride()[:3], *k.stride()[:3])
    shape = {"H": heads, "D": width, "W": max(MIN_WIDTH, triton.next_power_of_2(width)), "BM": ROWS, "BN": KEYS}
    blocks, tiles = triton.cdiv(rows, ROWS), triton.cdiv(keys, KEYS)
    # A run has one length of sequences, so the number of tiles is compiled in.
    denominators_kernel[(blocks, heads, batch)](q, k, mask, below, rows, keys, *strides, scale, TILES=tiles, **shape)
    summed_kernel[(blocks, tiles, batch)](q, k, mask, below, out, rows, keys, *strides, scale, **shape)
    return out
