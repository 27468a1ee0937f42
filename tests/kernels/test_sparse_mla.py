"""Sparse attention: the formula against dense attention under a mask, the CPU's form against the formula."""

import pytest
import torch

from sgl_indexcache.kernels.sparse_mla import cpu, reference

FORMS = pytest.mark.parametrize("form", [reference, cpu], ids=["reference", "cpu"])


def masked_dense(q: torch.Tensor, kv: torch.Tensor, slots: torch.Tensor, value_dim: int, scale: float) -> torch.Tensor:
    logits = torch.einsum("thd,sd->ths", q.double(), kv.double()) * scale
    mask = torch.full((q.shape[0], kv.shape[0]), float("-inf"), dtype=torch.float64)
    for row, picks in enumerate(slots.tolist()):
        mask[row, [p for p in picks if p >= 0]] = 0.0
    return torch.einsum("ths,sv->thv", (logits + mask[:, None]).softmax(-1), kv[:, :value_dim].double())


@FORMS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "heads", "dim", "value_dim", "picks"), [(1, 1, 4, 2, 1), (5, 3, 96, 64, 33)])
def test_equals_masked_dense_attention(
    form: object, rows: int, heads: int, dim: int, value_dim: int, picks: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    q, kv = torch.randn(rows, heads, dim).to(dtype), torch.randn(111, dim).to(dtype)
    slots = torch.stack([torch.randperm(111)[:picks] for _ in range(rows)])
    slots[0, 1:] = -1
    got = form.sparse_mla(q, kv, slots, value_dim, dim**-0.5)  # type: ignore[attr-defined]
    assert got.dtype == dtype
    expected = masked_dense(q, kv, slots, value_dim, dim**-0.5)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@FORMS
def test_a_row_without_keys_is_zero(form: object) -> None:
    arguments = torch.randn(2, 3, 4), torch.randn(5, 4), torch.tensor([[-1, -1], [0, -1]]), 2, 1.0
    out = form.sparse_mla(*arguments)  # type: ignore[attr-defined]
    assert out[0].eq(0).all()
    assert out[1].ne(0).any()


@pytest.mark.parametrize("slots", [[[3, 1, -1, -1]], [[-1, 3, -1, 1]], [[3, 1, 0, 2]]], ids=["front", "mixed", "none"])
def test_padding_may_stand_anywhere(slots: list[list[int]]) -> None:
    q, kv = torch.randn(1, 2, 4), torch.randn(5, 4)
    arguments = q, kv, torch.tensor(slots), 2, 1.0
    torch.testing.assert_close(cpu.sparse_mla(*arguments), reference.sparse_mla(*arguments))


def test_scratch_is_used_and_its_old_content_is_not() -> None:
    q, kv, slots = torch.randn(2, 3, 4), torch.randn(5, 4), torch.tensor([[-1, 2, 0], [3, -1, -1]])
    scratch = torch.full((2 * 3 * 4 + 7,), float("nan"))
    assert torch.equal(cpu.sparse_mla(q, kv, slots, 2, 0.5, scratch), cpu.sparse_mla(q, kv, slots, 2, 0.5))
    assert not scratch[:24].isnan().any()
    assert scratch[24:].isnan().all()
