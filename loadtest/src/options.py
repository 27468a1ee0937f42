"""Everything that one run needs to know; made by the commands, by `ab`, or by a caller's own Python."""

from dataclasses import dataclass, field
from pathlib import Path

from sgl_indexcache.loadtest.drive.shape import Level
from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.measure.slo import Slo
from sgl_indexcache.loadtest.report.fail_if import Condition
from sgl_indexcache.loadtest.target import Target
from sgl_indexcache.loadtest.workload.generator import SaltMode
from sgl_indexcache.loadtest.workload.spec import Workload

SALTS = ("none", "run", "session")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """A run. Exactly one of `workload` and `trace` is set; durations are seconds; None is no limit.

    levels           stages, one after another; each has its own sessions and limits
    warmup           seconds from a stage's begin, warmup_requests a count: sent, but left out of the figures
    salt             None draws one
    speed            of a trace: 2 plays it in half the time
    scrape_interval  seconds between looks at the server's figures; 0 never looks
    grace            how long answers may still take after the first Ctrl-C
    """

    target: Target
    out: Path
    workload: Workload | None = None
    workload_name: str = ""
    trace: Path | None = None
    trace_format: str = "auto"
    levels: list[Level] = field(default_factory=lambda: [Level("closed", 4, 4)])
    seed: int = 0
    salt_mode: SaltMode = "run"
    salt: str | None = None
    duration: float | None = None
    requests: int | None = None
    sessions: int | None = None
    warmup: float = 0.0
    warmup_requests: int = 0
    retries: int = 0
    in_flight: int = 10_000
    speed: float = 1.0
    slo: Slo | None = None
    conditions: list[Condition] = field(default_factory=list)
    scrape_interval: float = 2.0
    flush_cache: bool = False
    grace: float = 30.0
    html: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        if (self.workload is None) == (self.trace is None):
            raise OptionError("a run needs a workload or a trace, not both")
        if self.salt_mode not in SALTS:
            raise OptionError(f"--salt {self.salt_mode!r} is unknown: use one of {', '.join(SALTS)}")
        if self.speed <= 0:
            raise OptionError("--speed must be above 0")
        if self.in_flight < 1:
            raise OptionError("--max-in-flight must be at least 1")
        for name in ("duration", "requests", "sessions"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"--{name} must be above 0")
        for name in ("warmup", "warmup_requests", "retries", "scrape_interval", "grace"):
            if getattr(self, name) < 0:
                raise OptionError(f"--{name.replace('_', '-')} must not be negative")
        if self.workload is not None and not (self.duration or self.requests or self.sessions):
            raise OptionError("a workload never ends: add --duration, --requests or --sessions")
        if any(c.name == "goodput" for c in self.conditions) and self.slo is None:
            raise OptionError("--fail-if goodput needs objectives: add --slo ttft=2s,tpot=50ms")
