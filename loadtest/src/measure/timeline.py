"""What happened when: counts in equal intervals, as many as fit a fixed number of bins."""

from typing import Any

MAX_BINS = 3600
_NAMES = ("sent", "done", "failed", "tokens", "in_flight")


class Timeline:
    """Bins of `width` seconds from the run's begin. When they run out, pairs are merged and `width` doubles."""

    def __init__(self, width: float = 1.0, max_bins: int = MAX_BINS) -> None:
        self.width = width
        self._max_bins = max_bins
        self._bins: dict[str, list[float]] = {name: [] for name in _NAMES}
        self._flying = 0

    def sent(self, now: float) -> None:
        """A request was sent at `now` seconds."""
        self._flying += 1
        self._add("sent", now, 1)
        self._peak(now)

    def tokens(self, now: float, count: int) -> None:
        """`count` output tokens arrived."""
        self._add("tokens", now, count)

    def done(self, now: float, ok: bool) -> None:
        """A request ended."""
        self._add("done" if ok else "failed", now, 1)
        self._peak(now)
        self._flying -= 1

    @property
    def in_flight(self) -> int:
        return self._flying

    def _place(self, now: float) -> int:
        place = int(max(0.0, now) / self.width)
        while place >= self._max_bins:
            self._merge()
            place = int(now / self.width)
        short = place + 1 - len(self._bins["sent"])
        if short > 0:
            for bins in self._bins.values():
                bins.extend([0.0] * short)
        return place

    def _add(self, name: str, now: float, count: int) -> None:
        place = self._place(now)
        self._bins[name][place] += count

    def _peak(self, now: float) -> None:
        place = self._place(now)
        flying = self._bins["in_flight"]
        flying[place] = max(flying[place], self._flying)

    def _merge(self) -> None:
        self.width *= 2
        for name, bins in self._bins.items():
            pairs = [bins[at : at + 2] for at in range(0, len(bins), 2)]
            self._bins[name] = [max(pair) if name == "in_flight" else sum(pair) for pair in pairs]

    def document(self) -> dict[str, Any]:
        """`width` in seconds; per bin: requests sent, done and failed, output tokens, most requests in flight."""
        return {"width": self.width, **self._bins}
