"""Absorbed MLA of each query over the keys of its selection (DeepSeek-V2 report, section 2.1; V3.2 DSA).

A[t, h, j] = softmax_j( scale * q[t, h] . kv[slots[t, j]] )      over j with slots[t, j] >= 0
out[t, h]  = sum_j  A[t, h, j] * kv[slots[t, j], :V]

q      [T, H, D]     absorbed queries: latent part, then rope part
kv     [slots, D]    latent cache, one row a token: the first V columns are also the value
slots  [T, K]        int, cache rows of the selection, -1 padded anywhere
out    [T, H, V]     in q's dtype; float32 (float64 for float64) inside; rows without a key are zero
"""

import torch

from sgl_indexcache.kernels.precision import accumulation_dtype


def sparse_mla(q: torch.Tensor, kv: torch.Tensor, slots: torch.Tensor, value_dim: int, scale: float) -> torch.Tensor:
    """Attention output `[T, H, value_dim]` of `q [T, H, D]` over `kv[slots]`, `slots [T, K]`, -1 = no key."""
    wide = accumulation_dtype(q, kv)
    keys = kv[slots.clamp(min=0).long()].to(wide)
    logits = scale * torch.einsum("thd,tkd->thk", q.to(wide), keys)
    absent = slots.unsqueeze(1) < 0
    # Of a row without any key softmax is NaN, and its output is defined as zero.
    weights = logits.masked_fill(absent, float("-inf")).softmax(-1).masked_fill(absent, 0.0)
    return torch.einsum("thk,tkv->thv", weights, keys[..., :value_dim]).to(q.dtype)
