"""Causal scores in Triton's interpreter; run by tests/kernels/test_score_causal.py in a process of its own.

The interpreter's products of bf16 are wrong (triton 3.7), so fp16 stands in; the benchmark checks bf16 on a GPU.
"""

import sys
from pathlib import Path

import pytest
import torch

from sgl_indexcache.kernels.score_causal import cuda, reference

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)


@pytest.mark.parametrize(
    ("batch", "first", "rows", "keys", "heads", "width"),
    [(1, 0, 1, 1, 1, 16), (2, 0, 63, 63, 3, 32), (2, 70, 65, 135, 2, 16), (1, 5, 111, 300, 4, 64)],
)
def test_equals_the_reference(batch: int, first: int, rows: int, keys: int, heads: int, width: int) -> None:
    torch.manual_seed(rows)
    whole = torch.randn(batch, first + rows, heads, width).half()
    gates = torch.randn(batch, first + rows, heads)
    k = torch.randn(batch, keys + 9, width).half()
    # Slices of longer tensors, as training hands them over.
    q, gates, k = whole[:, first:], gates[:, first:], k[:, :keys]
    result = cuda.score_causal(q, k, gates, first)
    expected = reference.score_causal(q.double(), k.double(), gates.double(), first)
    assert torch.equal(result.isinf(), expected.isinf())
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-4)


def test_other_strides_are_refused() -> None:
    q, k, gates = torch.randn(1, 4, 2, 16), torch.randn(1, 4, 16), torch.randn(1, 4, 2)
    with pytest.raises(ValueError, match="contiguous within a sequence"):
        cuda.score_causal(q[:, ::2], k, gates[:, ::2], 0)
