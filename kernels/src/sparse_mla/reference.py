"""Absorbed MLA of each query over the keys of its selection (DeepSeek-V2 report, section 2.1; V3.2 DSA).

A[t, h, j] = softmax_j( scale * q[t, h] . kv[slots[t, j]] )      over j with slots[t, j] >= 0
out[t, h]  = sum_j  A[t, h, j] * kv[slots[t, j], :V]

q      [T, H, D]     absorbed queries: latent part, then rope part
kv     [slots, D]    latent cache, one row a token: the first V columns are also the value
slots  [T, K]        int, cache rows of the selection, -1 padded anywhere
out    [T, H, V]     in q's dtype; float32 (float64 for float64) inside; rows without a key are zero
"""

import torch


def sparse_mla(
    q: torch.Tensor,
    kv: torch.Tensor,
    slots: torch.Tensor,
    value_dim: int,
    scale: float,
    scratch: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention output `[T, H, value_dim]` of `q [T, H, D]` over `kv[slots]`, `slots [T, K]`, -1 = no key.

    Gathers the selected keys (`T * K * D` elements of scratch): callers bound it by slicing T, and may give it
    as a flat tensor in kv's dtype, so that many slices share one buffer.
    """
    wide = torch.float64 if torch.float64 in (q.dtype, kv.dtype) else torch.float32
    absent = slots < 0
    padded = bool(absent.any())
    rows, picks = slots.shape
    size = rows * picks * kv.shape[1]
    gathered = (kv.new_empty(size) if scratch is None else scratch[:size]).view(rows * picks, kv.shape[1])
    torch.index_select(kv, 0, (slots.clamp(min=0) if padded else slots).reshape(-1), out=gathered)
    keys = gathered.view(rows, picks, -1).to(wide)
    logits = torch.bmm(q.to(wide), keys.transpose(1, 2)).mul_(scale)
    if padded:
        logits.masked_fill_(absent.unsqueeze(1), float("-inf"))
    weights = logits.softmax(dim=-1)
    if padded:
        # A row without any key is padding: softmax gives NaN there, and its output is defined as zero.
        weights.masked_fill_(absent.all(dim=1)[:, None, None], 0.0)
    return torch.bmm(weights, keys[..., :value_dim]).to(q.dtype)
