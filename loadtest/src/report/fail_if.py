"""Conditions for CI: `p99.ttft.warm > 1s`, `failures > 0`, `goodput < 95%`, `hit_rate.warm < 0.8`."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.measure.record import METRICS
from sgl_indexcache.loadtest.units import parse_quantity

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
STATISTICS = ("min", "mean", "p50", "p90", "p95", "p99", "max")
SCALARS = (
    "failures", "failure_rate", "retries", "requests", "goodput", "hit_rate", "requests_per_s",
    "input_tokens_per_s", "output_tokens_per_s",
)  # fmt: skip
_SHAPE = re.compile(r"\s*([A-Za-z0-9_.+-]+)\s*(>=|<=|>|<)\s*([^<>=]+)")


@dataclass(frozen=True, slots=True)
class Condition:
    """A run fails when it holds, and also when what it asks for was not measured."""

    text: str
    statistic: str | None
    name: str
    group: str
    sign: str
    limit: float

    def check(self, summary: dict[str, Any]) -> str | None:
        """None when the run passes, otherwise one sentence that says why not."""
        value = self._value(summary)
        if value is None:
            return f"{self.text}: nothing of it was measured"
        if _OPERATORS[self.sign](value, self.limit):
            return f"{self.text}: it is {value:.6g}"
        return None

    def _value(self, summary: dict[str, Any]) -> float | None:
        group = summary["groups"].get(self.group)
        if self.statistic is not None:
            distribution = group["latency"].get(self.name) if group else None
            return None if distribution is None else distribution[self.statistic]
        if self.name == "hit_rate":
            return None if group is None else group["hit_rate"]
        if self.name == "goodput":
            return None if summary["slo"] is None else float(summary["slo"]["goodput"])
        if self.name == "failures":
            return float(summary["failed"])
        if self.name == "failure_rate":
            return summary["failed"] / summary["requests"] if summary["requests"] else None
        return float(summary[self.name])


def parse_condition(text: str) -> Condition:
    """Read `STATISTIC.METRIC[.GROUP] SIGN LIMIT` or `FIGURE SIGN LIMIT`.

    GROUP is cold, warm or repeat, or a bucket's name with dots for its spaces (`warm.new.256-1K`).

    Raises:
        OptionError: the text says nothing that is measured.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise OptionError(f"--fail-if {text!r}: write it like 'p99.ttft.warm > 1s' or 'failures > 0'")
    head, *rest = match[1].split(".")
    limit = parse_quantity(match[3])
    if head in STATISTICS:
        if not rest or rest[0] not in METRICS:
            raise OptionError(f"--fail-if {text!r}: after {head}. comes one of {', '.join(METRICS)}")
        return Condition(text.strip(), head, rest[0], " ".join(rest[1:]) or "all", match[2], limit)
    if head not in SCALARS or (rest and head != "hit_rate"):
        known = ", ".join((*STATISTICS, *SCALARS))
        raise OptionError(f"--fail-if {text!r}: {match[1]} is not measured; it begins with one of {known}")
    return Condition(text.strip(), None, head, " ".join(rest) or "all", match[2], limit)


def parse_conditions(texts: list[str] | None) -> list[Condition]:
    """One of each text; see parse_condition."""
    return [parse_condition(text) for text in texts or []]


def violations(conditions: list[Condition], stages: list[dict[str, Any]]) -> list[str]:
    """A sentence for every condition that fails a stage."""
    return [
        f"{stage['label']}: {reason}"
        for stage in stages
        for condition in conditions
        if (reason := condition.check(stage["summary"])) is not None
    ]
