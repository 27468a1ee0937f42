"""All figures of a stage: histograms per group, token sums, failures, goodput."""

from array import array
from collections import Counter
from typing import Any

from sgl_indexcache.loadtest.measure.groups import groups_of, order
from sgl_indexcache.loadtest.measure.histogram import Histogram
from sgl_indexcache.loadtest.measure.record import LATENCIES, METRICS, Record
from sgl_indexcache.loadtest.measure.slo import Slo

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
_CDFS = ("ttft", "ttft_intended", "tpot", "itl", "e2e")


class Group:
    """Figures of the successful requests of one group."""

    def __init__(self) -> None:
        self.requests = 0
        self.histograms: dict[str, Histogram] = {name: Histogram() for name in METRICS}
        self.prompt = self.cached = self.output = 0
        self.server_counts = False

    def add(self, record: Record, gaps: "array[float]") -> None:
        self.requests += 1
        for name in LATENCIES:
            value = getattr(record, name)
            if value is not None:
                self.histograms[name].add(value)
        self.histograms["itl"].extend(gaps)
        # Servers that count cached tokens may say nothing where there are none.
        self.prompt += record.prompt if record.prompt is not None else record.context
        self.output += record.output if record.output is not None else record.events
        if record.cached is not None:
            self.server_counts = True
            self.cached += record.cached

    @property
    def hit_rate(self) -> float | None:
        """Cached over prompt tokens; None when the server said it of no request of the group."""
        return self.cached / self.prompt if self.server_counts and self.prompt else None


class Metrics:
    """Takes records; memory depends on the number of groups, not of requests. Warm-up records are left out."""

    def __init__(self, slo: Slo | None = None) -> None:
        self.slo = slo
        self.groups: dict[str, Group] = {}
        self.failures: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.requests = self.succeeded = self.retries = self.met = self.met_tokens = 0
        self.skipped_turns = 0
        self.begin: float | None = None
        self.end = 0.0

    def add(self, record: Record, gaps: "array[float]") -> None:
        """Count one attempt. `gaps`: seconds between tokens."""
        if record.warmup:
            return
        self.requests += 1
        self.retries += record.attempt > 0
        self.begin = record.sent if self.begin is None else min(self.begin, record.sent)
        self.end = max(self.end, record.end)
        if not record.ok:
            self.failures[record.status] += 1
            if record.http is not None and record.http != 200:
                self.statuses[str(record.http)] += 1
            return
        self.succeeded += 1
        for name in groups_of(record):
            self.groups.setdefault(name, Group()).add(record, gaps)
        if self.slo is not None and self.slo.met(record):
            self.met += 1
            self.met_tokens += record.output or record.events

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def duration(self) -> float:
        """Seconds from the first measured send to the last measured end."""
        return max(0.0, self.end - self.begin) if self.begin is not None else 0.0

    def summary(self, cdfs: bool = True) -> dict[str, Any]:
        """The stable JSON shape of a stage's figures; durations in seconds, rates per second."""
        span = self.duration or 1e-9
        total = self.groups.get("all", Group())
        document: dict[str, Any] = {
            "requests": self.requests,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "failures": dict(sorted(self.failures.items())),
            "http_statuses": dict(sorted(self.statuses.items())),
            "retries": self.retries,
            "skipped_turns": self.skipped_turns,
            "duration": self.duration,
            "requests_per_s": self.succeeded / span,
            "input_tokens": total.prompt,
            "cached_tokens": total.cached if total.server_counts else None,
            "output_tokens": total.output,
            "input_tokens_per_s": total.prompt / span,
            "cached_tokens_per_s": total.cached / span if total.server_counts else None,
            "output_tokens_per_s": total.output / span,
            "hit_rate": total.hit_rate,
            "slo": None,
            "groups": {name: _group(self.groups[name], cdfs) for name in sorted(self.groups, key=order)},
        }
        if self.slo is not None:
            document["slo"] = {
                "limits": self.slo.document(),
                "met": self.met,
                "goodput": self.met / self.requests if self.requests else 0.0,
                "requests_per_s": self.met / span,
                "output_tokens_per_s": self.met_tokens / span,
            }
        return document


def _group(group: Group, cdfs: bool) -> dict[str, Any]:
    latencies = {name: _distribution(histogram) for name, histogram in group.histograms.items() if histogram.count}
    document: dict[str, Any] = {
        "requests": group.requests,
        "prompt_tokens": group.prompt,
        "cached_tokens": group.cached if group.server_counts else None,
        "hit_rate": group.hit_rate,
        "output_tokens": group.output,
        "latency": latencies,
    }
    if cdfs:
        document["cdf"] = {name: group.histograms[name].cdf() for name in _CDFS if group.histograms[name].count}
    return document


def _distribution(histogram: Histogram) -> dict[str, float | int | None]:
    values = histogram.percentiles(list(PERCENTILES))
    named = {f"p{percent:g}": value for percent, value in zip(PERCENTILES, values, strict=True)}
    return {
        "count": histogram.count,
        "mean": histogram.mean,
        "min": histogram.minimum,
        **named,
        "max": histogram.maximum,
    }
