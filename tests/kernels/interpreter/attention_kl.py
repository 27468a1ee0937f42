"""Attention's distribution in Triton's interpreter; run by tests/kernels/test_attention_kl.py in a process of its own.

The interpreter's products of bf16 are wrong (triton 3.7), so fp16 stands in; the benchmark checks bf16 on a GPU.
"""

import sys
from pathlib import Path

import pytest
import torch

from sgl_indexcache.kernels.attention_kl import cuda, reference

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)


@pytest.mark.parametrize(
    ("rows", "keys", "heads", "width", "dtype"),
    [(1, 1, 1, 16, torch.float32), (33, 111, 3, 24, torch.float32), (5, 200, 2, 80, torch.float16)],
)
def test_equals_the_reference(rows: int, keys: int, heads: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    q = torch.randn(2, rows, heads, width).to(dtype).transpose(1, 2)
    k = torch.randn(2, heads, keys, width).to(dtype)
    seen = torch.rand(2, rows, keys) < 0.5
    seen[..., 0] = True
    seen[:, :, 64:] = False  # a whole tile that nobody sees
    expected = reference.attention_distribution(q.double(), k.double(), seen, 0.3)
    result = cuda.attention_distribution(q, k, seen, 0.3)
    torch.testing.assert_close(result.double(), expected, rtol=2e-5, atol=1e-7)


def test_other_strides_are_refused() -> None:
    q = torch.randn(1, 1, 16, 16)
    with pytest.raises(ValueError, match="contiguous"):
        cuda.attention_distribution(q.mT, q, torch.ones(1, 16, 16, dtype=torch.bool), 1.0)
