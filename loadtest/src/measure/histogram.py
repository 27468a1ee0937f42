"""Durations in bounded memory: exact while there are few, then counts in logarithmic buckets."""

import math
from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

EXACT = 16_384
"""Values kept as they are; percentiles are exact up to here."""
PRECISION = 1e-3
"""Relative width of a bucket; a percentile is off by half of it at most."""
_LOW = 1e-7
_HIGH = 1e7
_STEP = math.log1p(PRECISION)
_BUCKETS = math.ceil(math.log(_HIGH / _LOW) / _STEP) + 1


class Histogram:
    """Counts seconds (or other numbers from 0 to 1e7). At most 0.4 MB, however many are added.

    Values below 1e-7 count as 0, above 1e7 as 1e7; minimum, maximum and mean stay exact.
    """

    __slots__ = ("_counts", "_exact", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._exact: array[float] | None = array("d")
        self._counts: npt.NDArray[np.int64] | None = None
        self.count = 0
        self.total = 0.0
        self.minimum = math.inf
        self.maximum = -math.inf

    def add(self, value: float) -> None:
        """Count one value."""
        if self._exact is None or self.count >= EXACT:
            self.extend((value,))
            return
        self._exact.append(value)
        self.count += 1
        self.total += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def extend(self, values: Iterable[float]) -> None:
        """Count several values."""
        more = np.fromiter(values, dtype=np.float64)
        if not len(more):
            return
        self.count += len(more)
        self.total += float(more.sum())
        self.minimum = min(self.minimum, float(more.min()))
        self.maximum = max(self.maximum, float(more.max()))
        if self._exact is not None:
            if self.count <= EXACT:
                self._exact.frombytes(more.tobytes())
                return
            more = np.concatenate([np.frombuffer(self._exact, dtype=np.float64), more])
            self._exact = None
            self._counts = np.zeros(_BUCKETS + 1, dtype=np.int64)
        assert self._counts is not None
        self._counts += np.bincount(_bucket(more), minlength=_BUCKETS + 1)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The smallest value that at least `percent` of the values do not exceed; None when empty."""
        return self.percentiles([percent])[0]

    def percentiles(self, percents: list[float]) -> list[float | None]:
        """Several percentiles at once, nearest-rank."""
        if not self.count:
            return [None] * len(percents)
        ranks = [min(self.count, max(1, math.ceil(percent / 100 * self.count - 1e-9))) for percent in percents]
        if self._exact is not None:
            ordered = np.sort(np.frombuffer(self._exact, dtype=np.float64))
            return [float(ordered[rank - 1]) for rank in ranks]
        assert self._counts is not None
        places = np.searchsorted(np.cumsum(self._counts), ranks)
        return [min(self.maximum, max(self.minimum, _middle(int(place)))) for place in places]

    def cdf(self, points: int = 100) -> list[tuple[float, float]]:
        """(value, share not above it) at `points` + 1 evenly spaced shares, and at 99.9%."""
        if not self.count:
            return []
        shares = sorted([*(100.0 * k / points for k in range(points + 1)), 99.9])
        values = self.percentiles(shares)
        return [(value, share / 100) for value, share in zip(values, shares, strict=True) if value is not None]

    def nbytes(self) -> int:
        """Memory of the values or buckets."""
        if self._exact is not None:
            return len(self._exact) * self._exact.itemsize
        assert self._counts is not None
        return self._counts.nbytes


def _bucket(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    # Bucket 0 is for zero; clock granularity makes no value between it and 0.1 µs meaningful.
    clipped = np.clip(values, _LOW, _HIGH)
    places = 1 + np.floor(np.log(clipped / _LOW) / _STEP).astype(np.int64)
    return np.where(values < _LOW, 0, np.minimum(places, _BUCKETS))


def _middle(place: int) -> float:
    return 0.0 if place == 0 else _LOW * math.exp((place - 0.5) * _STEP)
