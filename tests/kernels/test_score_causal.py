"""Causal scores of a batch: the formula against the op `score`, gradients, and the Triton kernel in its interpreter."""

from collections.abc import Callable

import pytest
import torch

from sgl_indexcache.kernels.score.reference import score
from sgl_indexcache.kernels.score_causal.reference import score_causal


def sides(batch: int, rows: int, keys: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and gates."""
    torch.manual_seed(rows)
    q, k = torch.randn(batch, rows, 3, 8).to(dtype), torch.randn(batch, keys, 8).to(dtype)
    return q, k, torch.randn(batch, rows, 3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("first", "rows", "keys"), [(0, 1, 1), (0, 63, 63), (48, 15, 111)])
def test_equals_the_scores_of_each_sequence(first: int, rows: int, keys: int, dtype: torch.dtype) -> None:
    q, k, gates = sides(2, rows, keys, dtype)
    result = score_causal(q, k, gates, first)
    assert result.dtype == dtype
    for row in range(rows):
        seen = min(keys, first + row + 1)
        for one in range(2):
            expected = score(q[one, row, None], k[one, :seen], gates[one, row, None])[0]
            torch.testing.assert_close(result[one, row, :seen], expected)
        assert result[:, row, seen:].eq(float("-inf")).all()


def test_products_are_widened_before_they_are_summed() -> None:
    q, k, gates = sides(1, 5, 5, torch.bfloat16)
    products = torch.einsum("brhd,bsd->brhs", q, k)
    expected = (products.float().relu() * gates.unsqueeze(-1)).sum(2)
    result = score_causal(q, k, gates, 4)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_gradients_reach_all_inputs() -> None:
    inputs = tuple(x.requires_grad_() for x in sides(2, 4, 9, torch.float64))
    assert torch.autograd.gradcheck(lambda *x: score_causal(*x, 9), inputs)


def test_the_kernel_equals_the_reference(interpret: Callable[[str], None]) -> None:
    interpret("score_causal.py")
