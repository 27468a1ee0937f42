"""Pattern itself: parsing, refusals, producers, counts."""

import dataclasses
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_indexcache.pattern import Pattern, PatternError

letters = st.text("FS", max_size=100).map(lambda rest: "F" + rest)


@given(letters)
def test_round_trip(text: str) -> None:
    pattern = Pattern.parse(text, len(text))
    assert str(pattern) == text
    assert len(pattern) == len(text)
    assert Pattern.parse(str(pattern)) == pattern
    assert pickle.loads(pickle.dumps(pattern)) == pattern
    assert hash(pattern) == hash(Pattern(text))


@given(letters)
def test_layers_are_a_partition(text: str) -> None:
    pattern = Pattern(text)
    assert sorted(pattern.full_layers + pattern.shared_layers) == list(range(len(text)))
    assert pattern.ratio == len(pattern.full_layers) / len(text)
    assert pattern.is_all_full == (pattern.ratio == 1.0) == (pattern.shared_layers == ())


@given(letters)
def test_producer_is_what_a_carried_buffer_holds(text: str) -> None:
    pattern = Pattern(text)
    last_full = -1
    for layer, letter in enumerate(text):
        if letter == "F":
            last_full = layer
        assert pattern.producer(layer) == last_full
        assert layer in pattern.served_by(last_full)
    served = [layer for full in pattern.full_layers for layer in pattern.served_by(full)]
    assert served == list(range(len(text)))


def test_a_small_pattern_by_hand() -> None:
    pattern = Pattern.parse("FSSFFS")
    assert pattern.full_layers == (0, 3, 4)
    assert pattern.shared_layers == (1, 2, 5)
    assert [pattern.producer(layer) for layer in range(6)] == [0, 0, 0, 3, 4, 4]
    assert pattern.served_by(0) == (0, 1, 2)
    assert pattern.served_by(3) == (3,)
    assert pattern.served_by(4) == (4, 5)
    assert pattern.ratio == 0.5
    assert not pattern.is_all_full


def test_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pattern("F").letters = "FF"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "layers", "message"),
    [
        ("", None, "the pattern is empty: give one letter, F or S, for each layer"),
        (
            "SF",
            None,
            "the pattern begins with S: layer 0 has no earlier layer to share with, so begin with F",
        ),
        ("FSX", None, "the pattern has 'X' at position 2: only F (Full) and S (Shared) are known"),
        ("FfS", None, "the pattern has the lower-case letter 'f' at position 1: write 'F'"),
        ("Fs", None, "the pattern has the lower-case letter 's' at position 1: write 'S'"),
        ("FS FS", None, "the pattern has ' ' at position 2: only F (Full) and S (Shared) are known"),
        ("FS\n", None, "the pattern has '\\n' at position 2: only F (Full) and S (Shared) are known"),
        (
            "FSF",
            4,
            "the pattern has 3 letters but the model has 4 layers: give exactly one letter for each layer",
        ),
        (
            "FSFSF",
            4,
            "the pattern has 5 letters but the model has 4 layers: give exactly one letter for each layer",
        ),
    ],
)
def test_refused(text: str, layers: int | None, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.parse(text, layers)
    assert str(caught.value) == message


@given(st.text(max_size=20))
def test_only_valid_patterns_come_to_life(text: str) -> None:
    valid = text.startswith("F") and set(text) <= {"F", "S"}
    try:
        Pattern(text)
    except PatternError:
        assert not valid
    else:
        assert valid


@pytest.mark.parametrize("layer", [-1, 3])
def test_layers_outside_are_an_error(layer: int) -> None:
    with pytest.raises(IndexError, match=r"outside 0\.\.2"):
        Pattern("FSF").producer(layer)
    with pytest.raises(IndexError, match=r"outside 0\.\.2"):
        Pattern("FSF").served_by(layer)


def test_a_shared_layer_serves_nothing() -> None:
    with pytest.raises(ValueError, match="layer 1 is Shared"):
        Pattern("FSF").served_by(1)
