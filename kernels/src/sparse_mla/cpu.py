"""Sparse MLA on the CPU, the formula of reference.py: two batched products over gathered keys, a caller's buffer."""

import torch

from sgl_indexcache.kernels.precision import accumulation_dtype


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
    wide = accumulation_dtype(q, kv)
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
