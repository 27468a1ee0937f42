"""Numbers with units, as they stand in options: `50ms`, `2s`, `1m`, `20%`."""

import math
import re

from sgl_indexcache.loadtest.errors import OptionError

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([a-zµ%]*)\s*")
_SECONDS = {"": 1.0, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Seconds of `50ms`, `2s`, `1.5m`, `1h` or a bare number of seconds.

    Raises:
        OptionError: anything else, and durations that are not finite.
    """
    value, unit = _split(text)
    if unit not in _SECONDS or not math.isfinite(value):
        raise OptionError(f"{text!r} is no duration: write it like 50ms, 2s or 1m")
    return value * _SECONDS[unit]


def parse_quantity(text: str) -> float:
    """A threshold: a duration in seconds, a percentage as a fraction, or a plain number.

    Raises:
        OptionError: the text is none of these.
    """
    value, unit = _split(text)
    if unit == "%":
        return value / 100
    return parse_seconds(text)


def _split(text: str) -> tuple[float, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise OptionError(f"{text!r} is no number: write it like 50ms, 2s, 5% or 0.95")
    return float(match[1]), match[2]


def show_seconds(value: float | None) -> str:
    """A duration for people, three digits; an en dash for None."""
    if value is None:
        return "–"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (600.0, 1.0, "s")):
        if value < limit:
            return f"{value * factor:.3g} {unit}"
    return f"{value / 60:.1f} min"


def show_count(value: float) -> str:
    """A token count for people: 512, 4K, 1.3M."""
    for factor, unit in ((1 << 20, "M"), (1 << 10, "K")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:g}"
