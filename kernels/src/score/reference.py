"""Indexer score, the formula (DeepSeek-V3.2 technical report, eq. 1; IndexCache paper, section 2).

    I[t, s] = sum_h  w[t, h] * relu( q[t, h] . k[s] )

    q  [T, H, D]  index queries, any float dtype
    k  [S, D]     index keys, any float dtype
    w  [T, H]     head gates, float; the constants H^-0.5 and D^-0.5 are folded in by the caller
    I  [T, S]     in the accumulation dtype: float64 when any input is float64, else float32

Causality, initial and local tokens are the caller's: this op scores every key it is given.
"""

import torch


def score(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, scratch: torch.Tensor | None = None) -> torch.Tensor:
    """Scores `[T, S]` of queries `q [T, H, D]` against keys `k [S, D]` with head gates `w [T, H]`.

    Products are accumulated in float32 (float64 for float64 inputs) whatever the input dtypes. They need
    `T * H * S` elements of scratch: callers bound it by slicing T and S, and may give it as a flat tensor of
    the accumulation dtype, so that many slices share one buffer.
    """
    rows, heads, dim = q.shape
    keys = k.shape[0]
    wide = torch.float64 if torch.float64 in (q.dtype, k.dtype, w.dtype) else torch.float32
    if scratch is None:
        scratch = torch.empty(rows * heads * keys, dtype=wide, device=q.device)
    products = scratch[: rows * heads * keys].view(rows * heads, keys)
    torch.mm(q.reshape(rows * heads, dim).to(wide), k.to(wide).T, out=products)
    return torch.bmm(w.to(wide).unsqueeze(1), products.relu_().view(rows, heads, keys)).squeeze(1)
