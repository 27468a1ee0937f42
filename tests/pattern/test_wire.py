"""Patterns as numbers: exact for every length, through JSON readers that make doubles, and refused when wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.pattern.wire import WireError, decode, encode, is_switch

PATTERNS = st.text("FS", max_size=130).map(lambda tail: Pattern("F" + tail))


@given(PATTERNS)
def test_round_trip_also_as_doubles(pattern: Pattern) -> None:
    payload = json.loads(json.dumps(encode(pattern)))
    assert decode(payload) == pattern
    assert decode({key: float(value) for key, value in payload.items()}) == pattern
    assert all(0 <= value < 1 << 48 for value in payload.values())
    assert is_switch(payload)


def test_other_payloads_are_left_to_sglang() -> None:
    assert not is_switch({"pp_max_micro_batch_size": 8})
    assert not is_switch({})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"indexcache_layers": None}, "indexcache_layers is missing"),
        ({"indexcache_full_0": None}, "indexcache_full_0 is missing"),
        ({"indexcache_full_1": 1}, "indexcache_full_1 does not belong"),
        ({"pp_max_micro_batch_size": 8}, "pp_max_micro_batch_size does not belong"),
        ({"indexcache_full_0": 0b1000}, "layer 0 is Shared"),
        ({"indexcache_full_0": 1 << 6}, "mask of 6 bits"),
        ({"indexcache_full_0": -1}, "mask of 6 bits"),
        ({"indexcache_full_0": 1.5}, "whole number"),
        ({"indexcache_full_0": float("nan")}, "whole number"),
        ({"indexcache_full_0": float("inf")}, "whole number"),
        ({"indexcache_full_0": True}, "whole number"),
        ({"indexcache_layers": 0}, "number of layers"),
        ({"indexcache_layers": 10**9}, "number of layers"),
    ],
)
def test_refusals(change: dict[str, float | None], sentence: str) -> None:
    payload = {**encode(Pattern("FSFSSS")), **change}
    with pytest.raises(WireError, match=sentence):
        decode({key: value for key, value in payload.items() if value is not None})
