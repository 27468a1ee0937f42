"""Overlap by its definition, with Python sets."""

import numpy as np
import pytest

from sgl_indexcache.overlap import measure

T, LAYERS, K = 60, 3, 8


@pytest.fixture(scope="module")
def selections() -> np.ndarray:
    """Random selections as an engine returns them: positions 0..t, padded with -1."""
    draw = np.random.default_rng(0)
    found = np.full((T, LAYERS, K), -1, dtype=np.int32)
    for row in range(T):
        for layer in range(LAYERS):
            chosen = draw.permutation(row + 1)[:K]
            found[row, layer, : len(chosen)] = chosen
    return found


def share(a: np.ndarray, b: np.ndarray) -> float:
    return len(set(a.tolist()) & set(b.tolist())) / len(a)


def test_rows_that_tell_something() -> None:
    assert measure.sparse_rows(60, 8, 1000).tolist() == list(range(8, 60))
    rows = measure.sparse_rows(60, 8, 5)
    assert (len(rows), rows[0], rows[-1]) == (5, 8, 59)
    assert measure.sparse_rows(9, 8, 5).tolist() == [8]


def test_between_layers(selections: np.ndarray) -> None:
    rows = measure.sparse_rows(T, K, 20)
    found = measure.between_layers(selections, rows)
    assert np.allclose(np.diagonal(found), 1)
    assert np.allclose(found, found.T)
    expected = np.mean([share(selections[row, 0], selections[row, 2]) for row in rows])
    assert found[0, 2] == pytest.approx(expected)


def test_between_queries(selections: np.ndarray) -> None:
    rows = measure.sparse_rows(T, K, 1000)
    found = measure.between_queries(selections, rows, (1, 4, 100))
    for number, distance in ((0, 1), (1, 4)):
        kept = [row for row in rows if row - distance >= K]
        expected = np.mean([share(selections[row, 1], selections[row - distance, 1]) for row in kept])
        assert found[number, 1] == pytest.approx(expected)
    assert np.isnan(found[2]).all()


def test_between_steps(selections: np.ndarray) -> None:
    found = measure.between_steps(selections, 50)
    assert found.shape == (10, LAYERS)
    assert found[0, 2] == pytest.approx(share(selections[50, 2], selections[49, 2]))
    assert measure.between_steps(selections, T).shape == (0, LAYERS)


def test_recall(selections: np.ndarray) -> None:
    rows = measure.sparse_rows(T, K, 10)
    assert measure.recall(selections[rows], selections[rows], rows + 1).tolist() == [1.0] * LAYERS
    turned = selections[:, [1, 2, 0]]
    expected = np.mean([share(selections[row, 0], selections[row, 1]) for row in rows])
    assert measure.recall(turned[rows], selections[rows], rows + 1)[0] == pytest.approx(expected)


def test_chance() -> None:
    assert measure.chance(np.array([15, 31]), 8) == pytest.approx((8 / 16 + 8 / 32) / 2)
