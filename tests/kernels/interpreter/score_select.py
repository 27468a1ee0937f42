"""The indexer kernels in Triton's interpreter; run by tests/kernels/test_score_select.py in a process of its own.

Triton decides at its import whether kernels are interpreted, and other tests want them compiled.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.kernels.score.cuda import padded, score_paged
from sgl_indexcache.kernels.score.reference import score_paged as score_reference
from sgl_indexcache.kernels.score_select import cuda, reference
from sgl_indexcache.kernels.score_select.cuda import score_select
from sgl_indexcache.kernels.select.cuda import select
from sgl_indexcache.kernels.select.reference import select as select_reference

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)
from indexer_cases import Problem, problem


def defined(p: Problem, k: int, **options: Any) -> torch.Tensor:
    """The reference's selection."""
    return reference.score_select(*p.arguments, k, max_length=p.longest, **options)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch memory holds NaN, or the largest integer, until it is written."""
    fresh = torch.empty

    def empty(*shape: Any, **options: Any) -> torch.Tensor:
        out = fresh(*shape, **options)
        return out.fill_(float("nan") if out.dtype.is_floating_point else torch.iinfo(out.dtype).max)

    monkeypatch.setattr(torch, "empty", empty)


ROWS = {
    "one row": [[63]],
    "decode": [[1], [111], [600], [0], [64]],
    "prefill": [[1, 2, 15, 16, 17, 63, 64, 65, 111]],
    "prefill after a prefix": [[260, 261, 262, 263, 264]],
    "mixed requests": [[300, 301, 302], [0], [129], list(range(60, 71))],
}


SIZES = [(name, 32, 8) for name in ROWS] + [("mixed requests", 16, 5), ("mixed requests", 64, 16), ("decode", 64, 7)]


@pytest.mark.parametrize(("name", "heads", "k"), SIZES)
def test_equals_the_reference(name: str, heads: int, k: int) -> None:
    p = problem(ROWS[name], heads)
    expected = defined(p, k)
    assert torch.equal(score_select(*p.arguments, k, max_length=p.longest), expected)


@pytest.mark.parametrize("rows", [63, 111])
def test_odd_numbers_of_rows(rows: int) -> None:
    p = problem([list(range(40)) * 3], 16)
    by_row = {0, 1, 4, 5}
    arguments = [part[:rows] if nth in by_row else part for nth, part in enumerate(p.arguments)]
    expected = reference.score_select(*arguments, 32, max_length=p.longest)
    assert torch.equal(score_select(*arguments, 32, max_length=p.longest), expected)


@pytest.mark.parametrize("shared", [1, 3])
def test_requests_that_share_pages(shared: int) -> None:
    p = problem([[210], [255], [193], [90], [400]], shared_pages=shared)
    expected = defined(p, 8)
    assert torch.equal(score_select(*p.arguments, 8, max_length=p.longest), expected)


@pytest.mark.parametrize("k", [1, 7, 16, 40])
def test_ties_go_to_the_lower_position(k: int) -> None:
    p = problem([[611, 500], [37], [290]], equal=True)
    scores = score_reference(*p.arguments, max_length=p.longest)
    assert scores[0, :611].unique().numel() < 10
    assert torch.equal(
        score_select(*p.arguments, k, max_length=p.longest),
        defined(p, k),
    )


def test_all_equal_scores_select_the_lowest_positions() -> None:
    p = problem([[500, 501]])
    p.weights.zero_()
    chosen = score_select(*p.arguments, 9, max_length=p.longest)
    assert torch.equal(chosen, torch.arange(9, dtype=torch.int32).expand(2, 9))


def test_short_rows_select_everything_and_scores_do_not_matter() -> None:
    p = problem([[16], [3], [0]])
    p.q.view(torch.uint8).fill_(0x7F)
    chosen = score_select(*p.arguments, 16, max_length=300)
    assert chosen.tolist() == [list(range(16)), [0, 1, 2] + [-1] * 13, [-1] * 16]


@pytest.mark.parametrize(("initial", "local"), [(3, 0), (0, 4), (2, 3), (20, 20)])
def test_first_and_last_positions_are_forced(initial: int, local: int) -> None:
    p = problem([[300, 301], [70], [10]])
    expected = defined(p, 12, initial=initial, local=local)
    got = score_select(*p.arguments, 12, max_length=p.longest, initial=initial, local=local)
    assert torch.equal(got, expected)


def test_slots() -> None:
    p = problem([[300, 301], [70], [5], [0]])
    expected = defined(p, 12, names=p.page_table)
    assert torch.equal(score_select(*p.arguments, 12, max_length=p.longest, names=p.page_table), expected)


def test_rows_in_slices_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    p = problem([list(range(90, 110))], 16)
    seen = []
    inner = cuda.score_paged

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        seen.append(options["out"].numel() * 4 + options["maxima"].numel() * 4)
        return inner(*arguments, **options)

    monkeypatch.setattr(cuda, "score_paged", counted)
    budget = 17 * 4 * 136
    out = torch.full((20, 6), 77, dtype=torch.int32)
    got = score_select(*p.arguments, 6, max_length=p.longest, budget_bytes=budget, out=out)
    assert got is out
    assert len(seen) == 2
    assert max(seen) <= budget
    assert torch.equal(out, defined(p, 6))


def test_a_bound_of_lengths_beyond_the_longest_row() -> None:
    p = problem([[100], [64]])
    table = torch.full((2, 40), 2**30, dtype=torch.int32)
    table[:, : p.page_table.shape[1]] = p.page_table
    p.page_table = table
    assert torch.equal(score_select(*p.arguments, 8, max_length=2560), defined(p, 8))


def test_no_rows() -> None:
    p = problem([])
    assert score_select(*p.arguments, 8, max_length=640).shape == (0, 8)


def test_scores_and_maxima() -> None:
    p = problem([[150, 151], [65]])
    width = padded(p.longest)
    maxima = torch.full((3, width // 16), float("nan"))
    got = score_paged(*p.arguments, max_length=p.longest, maxima=maxima)
    expected = score_reference(*p.arguments, max_length=p.longest)
    for row, length in enumerate(p.lengths.tolist()):
        torch.testing.assert_close(got[row, :length].double(), expected[row, :length], rtol=1e-5, atol=1e-5)
        for block in range(-(-length // 16)):
            assert maxima[row, block] == got[row, block * 16 : min(length, block * 16 + 16)].max()


@pytest.mark.parametrize("width", [1, 63, 111, 600])
@pytest.mark.parametrize("k", [1, 10, 64])
def test_select_equals_the_reference(width: int, k: int) -> None:
    torch.manual_seed(width)
    # Few values and both zeros: ties at the boundary are the rule.
    scores = torch.randint(-2, 3, (3, width)).float() * torch.tensor([1.0, -1.0, 0.0]).unsqueeze(1)
    scores = torch.cat([scores, torch.randn(3, width)])
    lengths = torch.tensor([width, min(1, width), width, max(0, width - 1), width, width // 2], dtype=torch.int32)
    given = scores.clone()
    for row, length in enumerate(lengths.tolist()):
        given[row, length:] = float("nan")
    assert torch.equal(select(given, lengths, k), select_reference(scores, lengths, k))


def _spread(name: str, rows: int, width: int) -> torch.Tensor:
    """Scores that are hard to interpolate."""
    random = torch.Generator().manual_seed(5)
    normal = torch.randn(rows, width, generator=random)
    if name == "infinite":
        normal[:, ::7] = float("inf")
    if name == "huge":
        normal *= 1e38
    if name == "tiny":
        normal *= 1e-42
    if name == "over all exponents":
        normal = normal.sign() * torch.exp2(120 * torch.rand(rows, width, generator=random) - 60)
    if name == "one far above":
        normal[:, 5] = 3e38
    if name == "two values":
        normal = (normal > 1.0).float() - 0.5
    if name == "zeros of both signs":
        normal = torch.where(normal.abs() < 2.0, 0.0 * normal, normal)
    return normal


@pytest.mark.parametrize(
    "name",
    ["infinite", "huge", "tiny", "over all exponents", "one far above", "two values", "zeros of both signs"],
)
@pytest.mark.parametrize(("width", "k"), [(1500, 3), (700, 200)])
def test_select_of_any_distribution(name: str, width: int, k: int) -> None:
    scores = _spread(name, 3, width)
    lengths = torch.tensor([width, width - 13, k + 1], dtype=torch.int32)
    assert torch.equal(select(scores, lengths, k), select_reference(scores.clone(), lengths, k))


def test_select_among_as_many_scores_as_a_program_holds() -> None:
    scores = torch.randn(1, 40_000, generator=torch.Generator().manual_seed(6))
    lengths = torch.tensor([40_000], dtype=torch.int32)
    assert torch.equal(select(scores, lengths, 2048), select_reference(scores.clone(), lengths, 2048))


def test_select_of_a_row_in_several_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose maxima do not fit at once; on a GPU those beyond half a million keys."""
    from sgl_indexcache.kernels.select import cuda as module

    monkeypatch.setattr(module, "MAX_AT_ONCE", 64)
    torch.manual_seed(0)
    scores = torch.cat([torch.randn(2, 3000), torch.randint(0, 3, (2, 3000)).float()])
    lengths = torch.tensor([3000, 2999, 2990, 1200], dtype=torch.int32)
    assert torch.equal(select(scores, lengths, 4), select_reference(scores.clone(), lengths, 4))


@pytest.mark.parametrize("k", [0, 2049])
def test_other_k_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to 2048"):
        select(torch.randn(1, 100), torch.tensor([100], dtype=torch.int32), k)


def test_other_layouts_are_refused() -> None:
    p = problem([[100]])
    with pytest.raises(ValueError, match="float8_e4m3fn"):
        score_select(p.q.float(), *p.arguments[1:], 8, max_length=100)
    with pytest.raises(ValueError, match="gates"):
        score_select(p.q, p.weights.double(), *p.arguments[2:], 8, max_length=100)
    with pytest.raises(ValueError, match="pages"):
        score_select(p.q, p.weights, p.index_k[:, :-1], *p.arguments[3:], 8, max_length=100)
    with pytest.raises(ValueError, match="lengths"):
        score_select(*p.arguments[:5], p.lengths.long(), 8, max_length=100)
