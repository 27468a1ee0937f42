"""Causal index scores of a slice of queries in training, Triton against torch, on a GPU.

    python -m sgl_indexcache.kernels.benchmarks.score_causal --out FILE

Prints one JSON a shape: milliseconds (median), extra peak memory, and the largest error of a score against float64,
relative to the largest. A shape whose error is more than twice that of torch in the same dtype stops the run: no time
is reported for a wrong result.
"""

import torch

from sgl_indexcache.kernels.benchmarks.beside_torch import Sides, run
from sgl_indexcache.kernels.score_causal import cuda
from sgl_indexcache.kernels.score_causal.reference import score_causal

SHAPES = ((8, 1024, 8192, 16, 64), (1, 1024, 8192, 64, 128), (1, 1024, 32768, 32, 128))
"""batch, queries, keys, heads, width: the last slice of a sequence of the nano model, DeepSeek-V3.2 and GLM-5."""
CHECKED_ROWS = 4


def sides(batch: int, rows: int, keys: int, heads: int, width: int) -> Sides:
    """One shape, bf16 queries and keys, the queries at the end of the keys."""
    q = torch.randn(batch, rows, heads, width, device="cuda").bfloat16()
    k = torch.randn(batch, keys, width, device="cuda").bfloat16()
    gates = torch.randn(batch, rows, heads, device="cuda") * (heads * width) ** -0.5
    first = keys - rows
    last = slice(rows - CHECKED_ROWS, rows)
    exact = score_causal(q[:, last].double(), k.double(), gates[:, last].double(), first + last.start)
    visible = exact.isfinite()
    largest = float(exact[visible].abs().max())

    def error(result: torch.Tensor) -> float:
        if not torch.equal(result[:, last].isfinite(), visible):
            return float("inf")
        return float((result[:, last][visible] - exact[visible]).abs().max()) / largest

    return Sides(
        {"batch": batch, "rows": rows, "keys": keys, "heads": heads, "width": width},
        lambda: cuda.score_causal(q, k, gates, first),
        lambda: score_causal(q, k, gates, first),
        error,
    )


if __name__ == "__main__":
    run("score_causal", __doc__, SHAPES, sides)
