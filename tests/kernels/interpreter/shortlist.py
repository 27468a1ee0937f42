"""The shortlist op in Triton's interpreter; run by tests/kernels/test_shortlist.py in a process of its own.

Triton decides at its import whether kernels are interpreted, and other tests want them compiled.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE, pack, unpack
from sgl_indexcache.kernels.shortlist import GROUP, cuda, pack_summary, reference, unpack_summary

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)

BUDGET = 1 << 20


class Case:
    """One request's page-packed keys in a pool of pages, and records of none of them."""

    def __init__(self, pages: int, dim: int = 32) -> None:
        torch.manual_seed(pages)
        pool = pages + 5
        keys = torch.randn(pool, PAGE, dim).to(torch.float8_e4m3fn)
        self.index_k = pack(keys, torch.rand(pool, PAGE) + 0.1)
        self.table = torch.randperm(pool)[:pages].int()
        self.summaries = torch.full((pool, dim + 4), 255, dtype=torch.uint8)
        self.has_summary = torch.zeros(pool, dtype=torch.uint8)
        self.keys = unpack(self.index_k, self.table).float()

    def summarise(self, pages: int) -> torch.Tensor:
        return cuda.summarise(self.index_k, self.table, self.summaries, self.has_summary, pages)

    def means(self, pages: int) -> torch.Tensor:
        return unpack_summary(pack_summary(self.keys[: pages * PAGE].view(pages, PAGE, -1).mean(1)))


@pytest.mark.parametrize(("pages", "dim"), [(1, 32), (3, 128), (65, 32)])
def test_summaries_are_made_once_and_laid_side_by_side(pages: int, dim: int) -> None:
    case = Case(pages, dim)
    found = unpack(case.summarise(pages), torch.arange(-(-pages // PAGE)))[:pages].float()
    # One step of fp8 where the order of a sum decides a rounding.
    torch.testing.assert_close(found, case.means(pages), rtol=0.13, atol=1e-6)
    assert ((found - case.means(pages)).abs() > 1e-6).float().mean() < 0.01
    assert case.has_summary[case.table.long()].eq(1).all()
    assert int(case.has_summary.sum()) == pages
    assert torch.equal(unpack_summary(case.summaries[case.table.long()]), found)
    case.index_k.zero_()
    assert torch.equal(unpack(case.summarise(pages), torch.arange(-(-pages // PAGE)))[:pages].float(), found)


def test_a_page_that_lost_its_record_is_summarised_again() -> None:
    case = Case(4)
    case.summarise(4)
    lost = int(case.table[2])
    case.has_summary[lost] = 0
    case.index_k[lost] = case.index_k[int(case.table[0])]
    packed = case.summarise(4)
    found = unpack(packed, torch.arange(1)).float()
    assert torch.equal(found[2], found[0])
    assert not torch.equal(found[1], found[0])


def test_a_page_of_zeros_has_a_summary_of_zeros() -> None:
    case = Case(2)
    case.index_k.zero_()
    assert unpack(case.summarise(2), torch.arange(1))[:2].eq(0).all()


@pytest.mark.parametrize(("heads", "window", "start", "rows"), [(5, 1, 640, 9), (16, 3, 643, 6), (32, 1, 700, 5)])
def test_both_levels_equal_the_reference(heads: int, window: int, start: int, rows: int) -> None:
    case, n, k = Case(13), 6, 40
    q = torch.randint(-3, 4, (rows, heads, 32)).float().to(torch.float8_e4m3fn)
    w = torch.rand(rows, heads)
    position = torch.arange(start, start + rows)
    group = position // GROUP - start // GROUP
    heads_of = torch.stack([(group == g).nonzero()[0, 0] for g in range(int(group.max()) + 1)])
    complete = position[heads_of] // PAGE
    complete_pages = (start + rows - 1) // PAGE
    packed = case.summarise(complete_pages)
    listed = torch.full((len(heads_of), n + 1), -7, dtype=torch.int32)
    listed[:, n] = complete
    summarised = (q.view(torch.uint8)[heads_of].view(q.dtype), w[heads_of], packed, complete.int())
    options = {"max_complete": complete_pages, "window": window}
    cuda.list_pages(*summarised, n, **options, budget_bytes=BUDGET, out=listed[:, :n])
    expected = torch.full_like(listed[:, :n], -8)
    reference.list_pages(*summarised, n, **options, budget_bytes=0, out=expected)
    assert torch.equal(listed[:, :n], expected)
    pages = case.table[listed.long()]
    lengths = (n * PAGE + position % PAGE + 1).int()
    for names in (listed, pages):
        out, expected = torch.full((rows, k), -9, dtype=torch.int32), torch.full((rows, k), -8, dtype=torch.int32)
        arguments = (q, w, case.index_k, pages, group.int(), lengths, k)
        reference.select_listed(*arguments, names=names, budget_bytes=0, out=expected)
        cuda.select_listed(*arguments, names=names, budget_bytes=BUDGET, out=out)
        assert torch.equal(out, expected)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("index_k", torch.zeros(18, PAGE * 36), "uint8"),
        ("summaries", torch.zeros(18, 40, dtype=torch.uint8), "summaries must be"),
        ("has_summary", torch.zeros(18), "has_summary must be"),
        ("table", torch.zeros(2, dtype=torch.int32), "page_table"),
    ],
)
def test_other_layouts_are_refused(name: str, value: Any, match: str) -> None:
    case = Case(13)
    setattr(case, name, value)
    with pytest.raises(ValueError, match=match):
        case.summarise(13)
