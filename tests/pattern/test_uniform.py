"""The frequency rule, by hand; `test_sglang_agrees.py` compares it with SGLang's."""

from typing import Any

import pytest

from sgl_indexcache.pattern import Pattern, PatternError


@pytest.mark.parametrize(
    ("layers", "freq", "offset", "expected"),
    [
        (9, 4, None, "FFSSSFSSS"),
        (9, 4, 1, "FSSSFSSSF"),
        (9, 4, 2, "FFSSSFSSS"),
        (9, 4, 3, "FFFSSSFSS"),
        (5, 1, None, "FFFFF"),
        (5, 100, 1, "FSSSS"),
        (3, 2, 50, "FFF"),
        (1, 4, None, "F"),
    ],
)
def test_by_hand(layers: int, freq: int, offset: int | None, expected: str) -> None:
    assert str(Pattern.uniform(layers, freq, offset)) == expected


@pytest.mark.parametrize(
    ("layers", "freq", "offset", "message"),
    [
        (0, 4, None, "the number of layers must be an integer of at least 1, but it is 0"),
        (4, 0, None, "freq must be an integer of at least 1, but it is 0"),
        (4, -1, None, "freq must be an integer of at least 1, but it is -1"),
        (4, True, None, "freq must be an integer of at least 1, but it is True"),
        (4, 2.0, None, "freq must be an integer of at least 1, but it is 2.0"),
        (4, 2, 0, "offset must be an integer of at least 1, but it is 0"),
    ],
)
def test_refused(layers: int, freq: Any, offset: int | None, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.uniform(layers, freq, offset)
    assert str(caught.value) == message
