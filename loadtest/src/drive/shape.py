"""Load shapes: a fixed number of sessions at a time, or sessions that arrive whether or not the server keeps up."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.units import parse_seconds

MAX_CONCURRENT = 100_000
_ARRIVALS = 3  # the stream of random numbers that arrival times come from


@dataclass(frozen=True, slots=True)
class Level:
    """One stage of a run.

    kind        closed: `end` sessions at a time; open: `end` sessions a second; trace: at their own times
    start, end  the level before and after the ramp; equal without one
    ramp_s      seconds from start to end
    arrivals    of open: poisson or constant
    """

    kind: Literal["closed", "open", "trace"]
    start: float = 0.0
    end: float = 0.0
    ramp_s: float = 0.0
    arrivals: Literal["poisson", "constant"] = "poisson"

    @property
    def label(self) -> str:
        """The level for people and reports."""
        if self.kind == "trace":
            return "trace"
        unit = "concurrency" if self.kind == "closed" else f"{self.arrivals} rate"
        span = f"{self.end:g}" if self.start == self.end else f"{self.start:g}..{self.end:g} in {self.ramp_s:g} s"
        return f"{unit} {span}"

    def worker_starts(self) -> list[float]:
        """closed: when each of the `end` workers begins, seconds from the stage's begin."""
        first, last = int(self.start), int(self.end)
        rise = max(1, last - first)
        return [max(0, worker + 1 - first) * self.ramp_s / rise for worker in range(last)]

    def arrival_times(self, seed: int) -> Iterator[float]:
        """open: when sessions arrive, seconds from the stage's begin, without end."""
        import numpy as np  # every start of the command line reads this file

        rng = np.random.default_rng([seed, _ARRIVALS])
        area = 0.0
        while True:
            yield self._when(area)
            area += 1.0 if self.arrivals == "constant" else float(rng.exponential())

    def _when(self, area: float) -> float:
        """The time by which `area` arrivals are expected; the rate rises linearly during the ramp."""
        low, high, ramp = self.start, self.end, self.ramp_s
        ramped = (low + high) / 2 * ramp
        if area >= ramped:
            return ramp + (area - ramped) / high
        slope = (high - low) / ramp
        # The root of low t + slope t^2 / 2 = area, in the form that stays exact for small slopes.
        return 2 * area / (low + math.sqrt(low * low + 2 * slope * area)) if area else 0.0


def parse_levels(concurrency: str | None, rate: str | None, arrivals: str, ramp: str | None) -> list[Level]:
    """The stages that the options ask for: `8`, a sweep `1,2,4`, or with a ramp `1..32`; none for none.

    Raises:
        OptionError: both options, a level that is not positive, a ramp without its time or the other way round.
    """
    ramp_s = None if ramp is None else parse_seconds(ramp)
    if concurrency is not None and rate is not None:
        raise OptionError("--concurrency and --rate exclude each other: give one")
    if arrivals not in ("poisson", "constant"):
        raise OptionError(f"--arrivals {arrivals!r} is unknown: use poisson or constant")
    text = concurrency if concurrency is not None else rate
    if text is None:
        if ramp_s is not None:
            raise OptionError("--ramp needs --concurrency or --rate with two ends, like 1..32")
        return []
    flag = "--concurrency" if concurrency is not None else "--rate"
    if ".." in text:
        if ramp_s is None or ramp_s <= 0:
            raise OptionError(f"{flag} {text} needs the time from one to the other: add --ramp 60s")
        low, _, high = text.partition("..")
        return [_level(flag, _number(flag, low), _number(flag, high), ramp_s, arrivals)]
    if ramp_s is not None:
        raise OptionError(f"--ramp needs {flag} with two ends, like 1..32")
    values = [_number(flag, part) for part in text.split(",")]
    return [_level(flag, value, value, 0.0, arrivals) for value in values]


def _level(flag: str, low: float, high: float, ramp_s: float, arrivals: str) -> Level:
    if high < low:
        raise OptionError(f"{flag} {low:g}..{high:g} falls: write the smaller end first")
    process: Literal["poisson", "constant"] = "constant" if arrivals == "constant" else "poisson"
    if flag == "--rate":
        return Level("open", low, high, ramp_s, process)
    if low != int(low) or high != int(high) or high > MAX_CONCURRENT:
        raise OptionError(f"{flag} {high:g}: give whole numbers up to {MAX_CONCURRENT}")
    return Level("closed", low, high, ramp_s)


def _number(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1e6:
        raise OptionError(f"{flag} {text.strip()!r} is no number above 0: write it like 8, 1,2,4 or 1..32")
    return value
