"""Service-level objectives: `ttft=2s,tpot=50ms`. A request meets them when it meets every one."""

from dataclasses import dataclass

from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.units import parse_seconds

_NAMES = ("ttft", "tpot", "e2e", "itl")


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds; None is no limit. ttft and e2e count from the intended send, itl is the longest gap."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    itl: float | None = None

    def met(self, record: Record) -> bool:
        """Whether the request succeeded within every limit."""
        if not record.ok:
            return False
        pairs = (
            (self.ttft, record.ttft_intended),
            (self.tpot, record.tpot),
            (self.e2e, record.e2e_intended),
            (self.itl, record.itl_max),
        )
        return all(limit is None or value is None or value <= limit for limit, value in pairs)

    def document(self) -> dict[str, float]:
        """The limits that are set, for the report."""
        return {name: value for name in _NAMES if (value := getattr(self, name)) is not None}


def parse_slo(text: str) -> Slo:
    """Read `name=duration` pairs, separated by commas.

    Raises:
        OptionError: an unknown name, one given twice, a missing or zero duration.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in _NAMES or not equals:
            raise OptionError(f"--slo {part.strip()!r}: write it like ttft=2s,tpot=50ms ({', '.join(_NAMES)})")
        if name in limits:
            raise OptionError(f"--slo names {name} twice: give it once")
        limits[name] = parse_seconds(value)
        if limits[name] <= 0:
            raise OptionError(f"--slo {name}=0 can never be met: give a duration above 0")
    return Slo(**limits)
