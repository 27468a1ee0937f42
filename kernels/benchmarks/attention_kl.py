"""Attention's distribution of a slice of queries, Triton against torch, on a GPU.

    python -m sgl_indexcache.kernels.benchmarks.attention_kl --out FILE

Prints one JSON a shape: milliseconds (median), extra peak memory, and the largest error (L1 over the keys) against
float64. A shape whose error is more than twice that of torch in the same dtype stops the run: no time is reported for
a wrong result.
"""

import torch

from sgl_indexcache.kernels.attention_kl import cuda
from sgl_indexcache.kernels.attention_kl.reference import attention_distribution
from sgl_indexcache.kernels.benchmarks.beside_torch import Sides, run

SHAPES = ((8, 4, 64, 8192, 80), (1, 128, 64, 8192, 192), (1, 128, 64, 32768, 192), (1, 64, 64, 131072, 256))
"""batch, heads, queries, keys, width: the nano model, DeepSeek-V3.2 at two lengths, GLM-5."""
CHECKED_ROWS = slice(0, 2)


def sides(batch: int, heads: int, rows: int, keys: int, width: int) -> Sides:
    """One shape, bf16, every query at a random place of the second half."""
    q = torch.randn(batch, heads, rows, width, device="cuda").bfloat16()
    k = torch.randn(batch, heads, keys, width, device="cuda").bfloat16()
    last = torch.randint(keys // 2, keys, (batch, rows, 1), device="cuda")
    visible = torch.arange(keys, device="cuda") <= last
    scale = width**-0.5
    exact = attention_distribution(q[:, :, CHECKED_ROWS].double(), k.double(), visible[:, CHECKED_ROWS], scale)

    def error(result: torch.Tensor) -> float:
        return float((result[:, CHECKED_ROWS] - exact).abs().sum(-1).max())

    return Sides(
        {"batch": batch, "heads": heads, "rows": rows, "keys": keys, "width": width},
        lambda: cuda.attention_distribution(q, k, visible, scale),
        lambda: attention_distribution(q, k, visible, scale),
        error,
    )


if __name__ == "__main__":
    run("attention_kl", __doc__, SHAPES, sides)
