"""A pattern as numbers: what SGLang's /set_internal_state can carry (`dict[str, int | float]`).

`indexcache_layers` is the number of layers; bit b of `indexcache_full_<i>` is set when layer 48 * i + b is
Full. 48 bits a key, because a JSON or msgpack reader in between may turn an integer into a double, which
holds 53. The search encodes, the seam in the scheduler decodes.
"""

from collections.abc import Mapping

from sgl_indexcache.errors import UserError
from sgl_indexcache.pattern import Pattern

PREFIX = "indexcache_"
LAYERS = PREFIX + "layers"
FULL = PREFIX + "full_"
WIDTH = 48
"""Layers a key."""
_MOST_LAYERS = 4096


class WireError(UserError):
    """A payload that spells no pattern."""


def encode(pattern: Pattern) -> dict[str, int]:
    """The payload that stands for `pattern`."""
    payload = {LAYERS: len(pattern)}
    for start in range(0, len(pattern), WIDTH):
        payload[f"{FULL}{start // WIDTH}"] = 0
    for layer in pattern.full_layers:
        payload[f"{FULL}{layer // WIDTH}"] |= 1 << layer % WIDTH
    return payload


def is_switch(payload: Mapping[str, object]) -> bool:
    """Whether any key of the payload is meant for IndexCache."""
    return any(key.startswith(PREFIX) for key in payload)


def decode(payload: Mapping[str, int | float]) -> Pattern:
    """The pattern that the payload stands for.

    Raises:
        WireError: a key is missing or not ours, a number is not whole or out of range, or layer 0 is Shared.
    """
    layers = _whole(payload, LAYERS)
    if not 1 <= layers <= _MOST_LAYERS:
        raise WireError(f"{LAYERS} is {layers}: give the model's number of layers")
    masks = [f"{FULL}{number}" for number in range(-(-layers // WIDTH))]
    if foreign := sorted(set(payload) - {LAYERS, *masks}):
        raise WireError(f"{foreign[0]} does not belong to a pattern of {layers} layers: send {LAYERS}, {masks[-1]}")
    letters = ""
    for number, key in enumerate(masks):
        width, mask = min(WIDTH, layers - number * WIDTH), _whole(payload, key)
        if not 0 <= mask < 1 << width:
            raise WireError(f"{key} is {mask}: it must be a mask of {width} bits, one a layer")
        letters += "".join("F" if mask >> bit & 1 else "S" for bit in range(width))
    if letters[0] != "F":
        raise WireError("layer 0 is Shared: it has no earlier layer to share with, so set its bit")
    return Pattern(letters)


def _whole(payload: Mapping[str, int | float], key: str) -> int:
    value = payload.get(key)
    if value is None:
        raise WireError(f"{key} is missing: a pattern is a number of layers and its masks")
    if isinstance(value, bool) or value != value or value != int(min(max(value, -1), 1 << WIDTH)):
        raise WireError(f"{key} is {value!r}: it must be a whole number of at most {WIDTH} bits")
    return int(value)
