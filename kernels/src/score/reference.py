"""Indexer score, the formula (DeepSeek-V3.2 technical report, eq. 1; IndexCache paper, section 2).

    I[t, s] = sum_h  w[t, h] * relu( q[t, h] . k[s] )

    q  [T, H, D]  index queries, any float dtype
    k  [S, D]     index keys, any float dtype
    w  [T, H]     head gates, float; the constants H^-0.5 and D^-0.5 are folded in by the caller
    I  [T, S]     in the accumulation dtype: float64 when any input is float64, else float32

Causality, initial and local tokens are the caller's: this op scores every key it is given.
"""

import torch

FUSED = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch can have oneDNN rectify a float32 product while it is still in registers."""


def score(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, scratch: torch.Tensor | None = None) -> torch.Tensor:
    """Scores `[T, S]` of queries `q [T, H, D]` against keys `k [S, D]` with head gates `w [T, H]`.

    Products are accumulated in float32 (float64 for float64 inputs) whatever the input dtypes. They need
    `T * H * S` elements of scratch: callers bound it by slicing T and S, and may give it as a flat tensor of
    the accumulation dtype, so that many slices share one buffer. oneDNN does not take it and allocates its own.
    """
    rows, heads, dim = q.shape
    keys = k.shape[0]
    wide = torch.float64 if torch.float64 in (q.dtype, k.dtype, w.dtype) else torch.float32
    products = _rectified(q.reshape(rows * heads, dim).to(wide), k.to(wide), scratch)
    return torch.bmm(w.to(wide).unsqueeze(1), products.view(rows, heads, keys)).squeeze(1)


def _rectified(q: torch.Tensor, k: torch.Tensor, scratch: torch.Tensor | None) -> torch.Tensor:
    """`relu(q k^T)` `[M, S]` of `q [M, D]` and `k [S, D]`, both float32 or both float64."""
    if takes_onednn(q, k):
        # torch.mm hands these shapes to MKL: slower on AMD, and another pass over the products for the relu.
        return torch.ops.mkldnn._linear_pointwise(q, k, None, "relu", [], "")
    if scratch is None:
        scratch = torch.empty(q.shape[0] * k.shape[0], dtype=q.dtype, device=q.device)
    products = scratch[: q.shape[0] * k.shape[0]].view(q.shape[0], k.shape[0])
    torch.mm(q, k.T, out=products)
    return products.relu_()


def takes_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN may multiply `x [M, D]` by `weight [S, D]` in full float32 here."""
    plain = all(t.dtype == torch.float32 and t.device.type == "cpu" and t.numel() for t in (x, weight))
    return FUSED and plain and _in_full()


def _in_full() -> bool:
    """Whether oneDNN multiplies float32 as float32: the process may have allowed it bf16 or tf32 products."""
    return torch.backends.mkldnn.matmul.fp32_precision in ("none", "ieee")
