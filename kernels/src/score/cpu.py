"""Scores on the CPU, the formula of reference.py: oneDNN where it may, a caller's buffer for the products elsewhere."""

from typing import Any

import torch

from sgl_indexcache.kernels.precision import accumulation_dtype

ONEDNN: Any = torch.backends.mkldnn
FUSED = ONEDNN.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch can have oneDNN rectify a float32 product while it is still in registers."""


def score(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor, scratch: torch.Tensor | None = None) -> torch.Tensor:
    """Scores `[T, S]` of queries `q [T, H, D]` against keys `k [S, D]` with head gates `w [T, H]`.

    Products are accumulated in float32 (float64 for float64 inputs) whatever the input dtypes. They need
    `T * H * S` elements of scratch: callers bound it by slicing T and S, and may give it as a flat tensor of
    the accumulation dtype, so that many slices share one buffer. oneDNN does not take it and allocates its own.
    """
    rows, heads, dim = q.shape
    keys = k.shape[0]
    wide = accumulation_dtype(q, k, w)
    products = _rectified(q.reshape(rows * heads, dim).to(wide), k.to(wide), scratch)
    return torch.bmm(w.to(wide).unsqueeze(1), products.view(rows, heads, keys)).squeeze(1)


def _rectified(q: torch.Tensor, k: torch.Tensor, scratch: torch.Tensor | None) -> torch.Tensor:
    """`relu(q k^T)` `[M, S]` of `q [M, D]` and `k [S, D]`, both float32 or both float64."""
    if takes_onednn(q, k):
        # torch.mm hands these shapes to MKL: slower on AMD, and another pass over the products for the relu.
        rectified: torch.Tensor = torch.ops.mkldnn._linear_pointwise(q, k, None, "relu", [], "")
        return rectified
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
    return ONEDNN.matmul.fp32_precision in ("none", "ieee")
