"""The score formula against a loop in float64, the CPU's form against the formula."""

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE, pack
from sgl_indexcache.kernels.score import cpu, reference


def by_hand(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(q.shape[0], k.shape[0], dtype=torch.float64)
    for t in range(q.shape[0]):
        for h in range(q.shape[1]):
            out[t] += w[t, h].double() * (k.double() @ q[t, h].double()).clamp(min=0)
    return out


@pytest.mark.parametrize("form", [reference, cpu], ids=["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "keys", "heads", "dim"), [(1, 1, 1, 3), (5, 63, 4, 16), (7, 111, 32, 128)])
def test_equals_the_formula(form: object, rows: int, keys: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q = torch.randn(rows, heads, dim).to(dtype)
    k = torch.randn(keys, dim).to(dtype)
    w = torch.randn(rows, heads).to(dtype)
    got = form.score(q, k, w)  # type: ignore[attr-defined]
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # The inputs are what they are in their dtype; only the accumulation is ours.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(got.double(), by_hand(q, k, w), rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (3, 5, 300, 32), (64, 32, 256, 128)], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_the_cpus_form_equals_the_reference(
    shape: tuple[int, ...], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "FUSED", fused and cpu.FUSED)
    torch.manual_seed(2)
    rows, heads, keys, dim = shape
    q, k, w = torch.randn(rows, heads, dim), torch.randn(keys, dim), torch.randn(rows, heads)
    expected = reference.score(q.double(), k.double(), w.double())
    torch.testing.assert_close(cpu.score(q, k, w).double(), expected, rtol=1e-5, atol=1e-4)


def test_scratch_is_used_and_its_old_content_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FUSED", False)
    torch.manual_seed(1)
    q, k, w = torch.randn(3, 4, 8), torch.randn(9, 8), torch.randn(3, 4)
    scratch = torch.full((3 * 4 * 9 + 5,), float("nan"))
    torch.testing.assert_close(cpu.score(q, k, w, scratch), cpu.score(q, k, w))
    assert not scratch[: 3 * 4 * 9].isnan().any()
    assert scratch[3 * 4 * 9 :].isnan().all()


@pytest.mark.skipif(not cpu.FUSED, reason="this torch has no oneDNN")
@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_products_stay_float32_where_the_process_allows_less(precision: str) -> None:
    matmul = torch.backends.mkldnn.matmul
    assert cpu._in_full()
    try:
        matmul.fp32_precision = precision
        assert not cpu._in_full()
    finally:
        matmul.fp32_precision = "ieee"


@pytest.mark.parametrize("form", [reference, cpu], ids=["reference", "cpu"])
def test_no_rows_and_no_keys(form: object) -> None:
    score = form.score  # type: ignore[attr-defined]
    assert score(torch.empty(0, 4, 8), torch.ones(3, 8), torch.empty(0, 4)).shape == (0, 3)
    assert score(torch.ones(2, 4, 8), torch.empty(0, 8), torch.ones(2, 4)).shape == (2, 0)


@pytest.mark.parametrize("packed", [True, False])
def test_scores_of_keys_in_pages(packed: bool) -> None:
    """Three rows of two requests, in both layouts of pages."""
    torch.manual_seed(3)
    keys = torch.randn(5, PAGE, 16).to(torch.float8_e4m3fn)
    index_k = pack(keys, torch.ones(5, PAGE)) if packed else keys.bfloat16()
    q, w = torch.randn(3, 2, 16), torch.randn(3, 2)
    table = torch.tensor([[4, 1, 9], [2, 9, 9]], dtype=torch.int32)  # there is no page 9
    request, lengths = torch.tensor([0, 0, 1]), torch.tensor([70, 128, 0])
    scores = reference.score_paged(q, w, index_k, table, request, lengths, max_length=130, initial=2, local=3)
    assert scores.dtype == torch.float64
    expected = by_hand(q[:2], torch.cat((keys[4], keys[1])), w[:2])
    for row, length in ((0, 70), (1, 128)):
        assert scores[row, [0, 1, length - 3, length - 1]].eq(float("inf")).all()
        torch.testing.assert_close(scores[row, 2 : length - 3], expected[row, 2 : length - 3])
        assert scores[row, length:].eq(float("-inf")).all()
    assert scores[2].eq(float("-inf")).all()
