"""The shortlist kernels in Triton's interpreter; run by test_shortlist.py in a process of its own.

Triton decides at its import whether kernels are interpreted, and other tests want them compiled.
"""

import sys
from pathlib import Path

import pytest
import torch

from sgl_indexcache.kernels.shortlist import PAGE, api, reference

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)

POOL = 40


def problem(rows: int, heads: int, dim: int, pages: int) -> tuple[torch.Tensor, ...]:
    """fp8 queries, gates, page-packed index-K and summaries, and the page table of two requests."""
    torch.manual_seed(rows + heads)
    q = torch.randn(rows, heads, dim).to(torch.float8_e4m3fn)
    keys = torch.randn(POOL, PAGE, dim)
    packed = reference.pack_summary(keys)
    index_k = torch.cat((packed[..., :dim].reshape(POOL, -1), packed[..., dim:].reshape(POOL, -1)), 1)
    table = torch.stack([torch.randperm(POOL)[:pages] for _ in range(2)]).int()
    request = torch.randint(0, 2, (rows,), dtype=torch.int32)
    return q, torch.randn(rows, heads), index_k.contiguous(), reference.pack_summary(keys.mean(1)), table, request


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert torch.equal(found.isinf(), expected.isinf())
    seen = ~expected.isinf()
    torch.testing.assert_close(found[seen], expected[seen], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("rows", "heads", "dim", "pages"), [(1, 32, 128, 1), (3, 5, 32, 33), (2, 16, 64, 40)])
def test_page_scores(rows: int, heads: int, dim: int, pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, w, _, summaries, table, request = problem(rows, heads, dim, pages)
    monkeypatch.setattr(api, "PAGES_PER_PROGRAM", 16)
    complete = torch.linspace(0, pages, rows).int() if rows > 1 else torch.tensor([pages], dtype=torch.int32)
    out = torch.full((rows, pages), float("nan"))
    found = api.page_scores(q, w, summaries, table, request, complete, out=out)
    assert found is out
    close(found, reference.page_scores(q, w, summaries, table, request, complete))


@pytest.mark.parametrize(("rows", "heads", "dim", "n"), [(1, 32, 128, 1), (4, 5, 32, 3), (2, 64, 64, 2)])
def test_listed_scores(rows: int, heads: int, dim: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "LISTED_PER_PROGRAM", 2)
    q, w, index_k, _, table, request = problem(rows, heads, dim, 20)
    listed = torch.stack([torch.randperm(20)[:n].sort().values for _ in range(rows)]).int()
    listed[0, 1:] = -1
    lengths = listed.amax(1) * PAGE + torch.arange(1, rows + 1).int() * 13
    out = torch.full((rows, n * PAGE), float("nan"))
    found = api.listed_scores(q, w, index_k, table, request, listed, lengths, out=out)
    close(found, reference.listed_scores(q, w, index_k, table, request, listed, lengths))


def test_other_layouts_are_refused() -> None:
    q, w, index_k, summaries, table, request = problem(2, 4, 32, 3)
    count = torch.ones(2, dtype=torch.int32)
    with pytest.raises(ValueError, match="float8"):
        api.page_scores(q.float(), w, summaries, table, request, count)
    with pytest.raises(ValueError, match="gates"):
        api.page_scores(q, w.double(), summaries, table, request, count)
    with pytest.raises(ValueError, match="pages must be"):
        api.listed_scores(q, w, summaries, table, request, torch.zeros(2, 1, dtype=torch.int32), count)
    assert index_k.shape[1] == PAGE * 36
