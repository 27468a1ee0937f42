"""The dynamic programme against all patterns, and the uniform rule."""

import itertools

import numpy as np
import pytest

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search.similarity import most_similar
from sgl_indexcache.search.uniform import uniform


def worth(pattern: Pattern, similarity: np.ndarray) -> float:
    return float(sum(similarity[pattern.producer(layer), layer] for layer in pattern.shared_layers))


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
def test_it_is_the_optimum_at_every_budget(layers: int) -> None:
    similarity = np.random.default_rng(layers).random((layers, layers))
    every = [Pattern("F" + "".join(tail)) for tail in itertools.product("FS", repeat=layers - 1)]
    found = most_similar(similarity, 1)
    assert [len(pattern.full_layers) for pattern in found] == list(range(layers, 0, -1))
    for pattern in found:
        same = [other for other in every if len(other.full_layers) == len(pattern.full_layers)]
        assert worth(pattern, similarity) == pytest.approx(max(worth(other, similarity) for other in same))


def test_ties_keep_the_lower_layers_full() -> None:
    assert [str(pattern) for pattern in most_similar(np.ones((4, 4)), 2)] == ["FFFF", "FFFS", "FFSS"]


@pytest.mark.parametrize(
    ("layers", "keep", "letters"),
    [
        (16, 5, "FFSSSFSSSFSSSFSS"),
        (16, 4, "FFSSSSFSSSSFSSSS"),
        (6, 6, "FFFFFF"),
        (6, 1, "FFSSSS"),
        (1, 1, "F"),
    ],
)
def test_uniform_takes_the_densest_that_fits(layers: int, keep: int, letters: str) -> None:
    assert str(uniform(layers, keep)) == letters
