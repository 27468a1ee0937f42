"""The score formula against a loop in float64."""

import pytest
import torch

from sgl_indexcache.kernels.score import reference, score


def by_hand(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(q.shape[0], k.shape[0], dtype=torch.float64)
    for t in range(q.shape[0]):
        for h in range(q.shape[1]):
            out[t] += w[t, h].double() * (k.double() @ q[t, h].double()).clamp(min=0)
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "keys", "heads", "dim"), [(1, 1, 1, 3), (5, 63, 4, 16), (7, 111, 32, 128)])
def test_equals_the_formula(rows: int, keys: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q = torch.randn(rows, heads, dim).to(dtype)
    k = torch.randn(keys, dim).to(dtype)
    w = torch.randn(rows, heads).to(dtype)
    got = score(q, k, w)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # The inputs are what they are in their dtype; only the accumulation is ours.
    torch.testing.assert_close(got.double(), by_hand(q, k, w), rtol=1e-5, atol=1e-4)


def test_scratch_is_used_and_its_old_content_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FUSED", False)
    torch.manual_seed(1)
    q, k, w = torch.randn(3, 4, 8), torch.randn(9, 8), torch.randn(3, 4)
    scratch = torch.full((3 * 4 * 9 + 5,), float("nan"))
    torch.testing.assert_close(score(q, k, w, scratch), score(q, k, w))
    assert not scratch[: 3 * 4 * 9].isnan().any()
    assert scratch[3 * 4 * 9 :].isnan().all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (3, 5, 300, 32), (64, 32, 256, 128)], ids=str)
def test_fused_and_plain_products_are_equal(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    rows, heads, keys, dim = shape
    q, k, w = torch.randn(rows, heads, dim), torch.randn(keys, dim), torch.randn(rows, heads)
    got = score(q, k, w)
    monkeypatch.setattr(reference, "FUSED", False)
    torch.testing.assert_close(got, score(q, k, w), rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not reference.FUSED, reason="this torch has no oneDNN")
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_products_stay_float32_where_the_process_allows_less(precision: str) -> None:
    matmul = torch.backends.mkldnn.matmul
    assert reference._in_full()
    try:
        matmul.fp32_precision = precision
        assert not reference._in_full()
    finally:
        matmul.fp32_precision = "ieee"


def test_no_rows_and_no_keys() -> None:
    assert score(torch.empty(0, 4, 8), torch.ones(3, 8), torch.empty(0, 4)).shape == (0, 3)
    assert score(torch.ones(2, 4, 8), torch.empty(0, 8), torch.ones(2, 4)).shape == (2, 0)
