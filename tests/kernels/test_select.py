"""Every form of selection against a full sort in the order (score descending, position ascending)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgl_indexcache.kernels.select import cpu, reference, sorting
from sgl_indexcache.kernels.select.cpu import BLOCK, MIN_BLOCKS


def select(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
    """What the formula, sorting, and both searches of the CPU's form select: torch's for many threads, NumPy's for few,
    a row and many rows at a time."""
    result = reference.select(scores, lengths, k)
    assert torch.equal(ascending(sorting.select_sorted(scores, lengths, k)), result)
    for few_threads, scores_at_once in ((0, 1), (1 << 30, 1), (1 << 30, 1 << 19)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "FEW_THREADS", few_threads)
            patch.setattr(cpu, "SCORES_AT_ONCE", scores_at_once)
            assert torch.equal(cpu.select(scores.clone(), lengths, k), result)
    return result


def ascending(positions: torch.Tensor) -> torch.Tensor:
    """Selections in ascending order, -1 at the end."""
    last = torch.iinfo(positions.dtype).max
    ordered = positions.masked_fill(positions < 0, last).sort(dim=1).values
    return ordered.masked_fill(ordered == last, -1)


def by_sorting(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
    out = torch.full((scores.shape[0], k), -1, dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        order = sorted(range(length), key=lambda s: (-scores[row, s].item(), s))
        best = sorted(order[:k])
        out[row, : len(best)] = torch.tensor(best, dtype=torch.int32)
    return out


@given(st.data())
def test_equals_sorting_under_ties(data: st.DataObject) -> None:
    width, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    # Few distinct values make ties at the boundary the rule, not the exception.
    value = st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0, float("inf")])
    rows = data.draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=1, max_size=4))
    lengths = torch.tensor([data.draw(st.integers(0, width)) for _ in rows])
    scores = torch.tensor(rows)
    expected = by_sorting(scores, lengths, k)
    assert torch.equal(select(scores, lengths, k), expected)


@pytest.mark.parametrize("width", [1, 63, 64, 65, 100, 2049])
@pytest.mark.parametrize("k", [1, 64, 2048])
def test_odd_sizes(width: int, k: int) -> None:
    torch.manual_seed(width)
    scores = torch.randn(3, width)
    lengths = torch.tensor([width, max(0, width - 1), min(1, width)])
    expected = by_sorting(scores, lengths, k)
    assert torch.equal(select(scores, lengths, k), expected)


@pytest.mark.parametrize("width", [96, 97, 383, 1000])
@pytest.mark.parametrize("values", [2, 30, 10**6])
def test_wide_rows_and_ties(width: int, values: int) -> None:
    """Wide enough for the search by block maxima."""
    torch.manual_seed(width + values)
    scores = torch.randint(values, (8, width)).float()
    scores[:2, 5:9] = float("inf")
    lengths = torch.tensor([width, width - 1, width // 2, 9, 7, 1, 0, width])
    assert width // BLOCK >= MIN_BLOCKS * (7 + 1)
    assert torch.equal(select(scores, lengths, 7), by_sorting(scores, lengths, 7))


def test_all_equal_scores_select_the_lowest_positions() -> None:
    assert select(torch.zeros(1, 100), torch.tensor([90]), 4).tolist() == [[0, 1, 2, 3]]


def test_columns_past_the_length_are_never_selected() -> None:
    scores = torch.tensor([[0.0, float("inf"), float("nan")]])
    assert select(scores, torch.tensor([1]), 2).tolist() == [[0, -1]]


def test_no_rows() -> None:
    assert select(torch.empty(0, 5), torch.empty(0, dtype=torch.long), 3).shape == (0, 3)


def test_the_reference_leaves_its_input_alone() -> None:
    scores = torch.randn(2, 9, dtype=torch.float64)
    before = scores.clone()
    reference.select(scores, torch.tensor([9, 4]), 3)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("elements", [1, 30, 1 << 24])
def test_sorted_selections_begin_anywhere_and_stand_best_first(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "SORTED_ELEMENTS", elements)
    torch.manual_seed(0)
    scores = torch.randint(-3, 4, (4, 30)).float()
    starts, lengths = torch.tensor([0, 7, 29, 5]), torch.tensor([30, 13, 1, 0])
    result = sorting.select_sorted(scores, lengths, 9, starts)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        order = sorted(range(length), key=lambda s: (-scores[row, start + s].item(), s))[:9]
        assert result[row].tolist() == order + [-1] * (9 - len(order))
