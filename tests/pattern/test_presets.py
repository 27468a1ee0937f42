"""The published patterns: their lengths and counts as the paper's listing has them."""

from itertools import pairwise

import pytest

from sgl_indexcache.pattern import Pattern, PatternError, presets


@pytest.mark.parametrize(
    ("name", "layers", "full"),
    [
        ("30b-1/2", 47, 24),
        ("30b-1/4", 47, 12),
        ("30b-1/8", 47, 7),
        ("glm5-1/2", 78, 40),
        ("glm5-1/4", 78, 22),
    ],
)
def test_counts(name: str, layers: int, full: int) -> None:
    pattern = Pattern.preset(name)
    assert (len(pattern), len(pattern.full_layers)) == (layers, full)
    assert presets()[name].layers == layers
    assert presets()[name].source


def test_these_are_all() -> None:
    assert list(presets()) == ["30b-1/2", "30b-1/4", "30b-1/8", "glm5-1/2", "glm5-1/4"]


def test_sparser_patterns_keep_a_subset_of_the_full_layers() -> None:
    # The greedy search flips one layer after another, so each stage contains the next one.
    for names in (("30b-1/2", "30b-1/4", "30b-1/8"), ("glm5-1/2", "glm5-1/4")):
        stages = [set(Pattern.preset(name).full_layers) for name in names]
        assert all(later < earlier for earlier, later in pairwise(stages))


def test_unknown_names() -> None:
    with pytest.raises(PatternError) as near:
        Pattern.preset("glm5-1/5")
    assert str(near.value) == "there is no preset named 'glm5-1/5': did you mean glm5-1/4?"
    with pytest.raises(PatternError) as far:
        Pattern.preset("zzz")
    assert str(far.value) == (
        "there is no preset named 'zzz': the presets are 30b-1/2, 30b-1/4, 30b-1/8, glm5-1/2, glm5-1/4"
    )
