"""Selection against a full sort in the order (score descending, position ascending)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sgl_indexcache.kernels.select import reference
from sgl_indexcache.kernels.select.reference import BLOCK, LEAST_BLOCKS


def select(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
    """What both searches find: torch's for many threads, NumPy's for few, a row and many rows at a time."""
    found = []
    for few_threads, scores_at_once in ((0, 1), (1 << 30, 1), (1 << 30, 1 << 19)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference, "FEW_THREADS", few_threads)
            patch.setattr(reference, "SCORES_AT_ONCE", scores_at_once)
            found.append(reference.select(scores, lengths, k))
    assert all(torch.equal(picks, found[0]) for picks in found)
    return found[0]


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
    assert width // BLOCK >= LEAST_BLOCKS * (7 + 1)
    assert torch.equal(select(scores, lengths, 7), by_sorting(scores, lengths, 7))


def test_all_equal_scores_select_the_lowest_positions() -> None:
    assert select(torch.zeros(1, 100), torch.tensor([90]), 4).tolist() == [[0, 1, 2, 3]]


def test_columns_past_the_length_are_never_selected() -> None:
    scores = torch.tensor([[0.0, float("inf"), float("nan")]])
    assert select(scores, torch.tensor([1]), 2).tolist() == [[0, -1]]


def test_no_rows() -> None:
    assert select(torch.empty(0, 5), torch.empty(0, dtype=torch.long), 3).shape == (0, 3)
