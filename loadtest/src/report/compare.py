"""Two runs, bucket by bucket: ratios of medians and tails, with bootstrap confidence intervals and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sgl_indexcache.loadtest.errors import ReportError
from sgl_indexcache.loadtest.measure.groups import groups_of, order
from sgl_indexcache.loadtest.measure.record import Record

Verdict = Literal["better", "worse", "same", "inconclusive", "too few"]
METRICS = ("ttft", "tpot", "e2e")
STATISTICS: dict[str, float] = {"p50": 50.0, "p90": 90.0, "p99": 99.0}
RESAMPLES = 1000
FEWEST = 5
"""Requests a side below which nothing is said."""
FEWEST_CLUSTERS = 8
MAX_VALUES = 10_000
_PART = 2_000_000
# Least requests for a statistic: a tail of which no value lies beyond cannot be compared.
_NEEDED = {"p50": FEWEST, "p90": 20, "p99": 200}
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """B over A of one statistic. a and b in seconds; low and high bound the ratio's 95% interval, None if unknown."""

    group: str
    metric: str
    statistic: str
    count_a: int
    count_b: int
    a: float
    b: float
    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict


def compare(a: Sequence[Record], b: Sequence[Record], tolerance: float = 0.05, seed: int = 0) -> list[Row]:
    """Rows for every group that both runs have, of successful requests after the warm-up.

    tolerance  ratios within 1 ± tolerance count as the same
    """
    values_a, values_b = _collect(a), _collect(b)
    rng = np.random.default_rng(seed)
    rows = []
    for group, metric in sorted(set(values_a) & set(values_b), key=lambda key: (order(key[0]), METRICS.index(key[1]))):
        side_a, side_b = (_Side(values[group, metric], rng) for values in (values_a, values_b))
        for statistic, percent in STATISTICS.items():
            if min(side_a.count, side_b.count) >= (_NEEDED[statistic] if statistic != "p50" else 1):
                rows.append(_row(group, metric, statistic, percent, side_a, side_b, tolerance, rng))
    return rows


def check_comparable(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Refuse to compare runs that did not send the same workload.

    Raises:
        ReportError: workload, trace, seed, scale of time or API differ; names the first difference.
    """
    for key in ("workload_digest", "trace", "seed", "speed"):
        if a["run"][key] != b["run"][key]:
            name = key.replace("_digest", "").replace("_", " ")
            raise ReportError(f"the two runs differ in {name}: compare runs of one workload, or add --force")
    if a["target"]["api"] != b["target"]["api"]:
        raise ReportError("the two runs used different APIs: compare runs of one API, or add --force")
    labels = [[stage["label"] for stage in document["stages"]] for document in (a, b)]
    if labels[0] != labels[1]:
        raise ReportError("the two runs had other loads: compare runs of one load shape, or add --force")


def overall(rows: Sequence[Row], a: dict[str, Any], b: dict[str, Any]) -> tuple[str, str]:
    """The verdict on B against A as (word, sentence), from the medians of the classes.

    A run that failed or was interrupted is never `better` or `same`.
    """
    for name, document in (("A", a), ("B", b)):
        if document["status"] != "ok":
            return "invalid", f"run {name} is not valid (status {document['status']}): nothing can be concluded"
    judged = [row for row in rows if row.group in ("cold", "warm", "repeat") and row.statistic == "p50"]
    judged = [row for row in judged if row.metric in ("ttft", "tpot")]
    said = {word: [row for row in judged if row.verdict == word] for word in ("better", "worse", "same")}
    if said["worse"]:
        word = "mixed" if said["better"] else "worse"
    elif said["better"]:
        word = "better"
    elif said["same"] and len(said["same"]) == len([row for row in judged if row.verdict != "too few"]):
        word = "same"
    else:
        word = "inconclusive"
    parts = [
        f"{row.metric} {row.group} {row.ratio:.2f}x ({row.verdict})"
        for row in judged
        if row.verdict in ("better", "worse")
    ]
    return word, f"B against A: {word}" + (f": {', '.join(parts)}" if parts else "")


class _Side:
    """The values of one run in one bucket, sorted, with the cluster (session) of each."""

    def __init__(self, pairs: list[tuple[float, str]], rng: np.random.Generator) -> None:
        if len(pairs) > MAX_VALUES:
            chosen = rng.choice(len(pairs), MAX_VALUES, replace=False)
            pairs = [pairs[place] for place in chosen]
        pairs.sort()
        self.values: _Floats = np.array([value for value, _ in pairs])
        self.count = len(pairs)
        names, clusters = np.unique([name for _, name in pairs], return_inverse=True)
        # A session's requests resemble each other, so whole sessions are drawn, where there are enough.
        self.clusters = clusters if len(names) >= FEWEST_CLUSTERS else np.arange(self.count)
        self.cluster_count = max(1, len(names) if len(names) >= FEWEST_CLUSTERS else self.count)

    def statistic(self, percent: float) -> float:
        return float(self.values[max(0, int(np.ceil(percent / 100 * self.count)) - 1)])

    def resampled(self, percent: float, rng: np.random.Generator) -> _Floats:
        """RESAMPLES values of the statistic."""
        parts: list[_Floats] = []
        even = np.full(self.cluster_count, 1 / self.cluster_count)
        # In parts of bounded size: a weight for every value and resample stands in memory at once.
        rows = max(1, _PART // max(1, self.count))
        for begin in range(0, RESAMPLES, rows):
            picks = rng.multinomial(self.cluster_count, even, min(rows, RESAMPLES - begin))
            total = np.cumsum(picks[:, self.clusters], axis=1, dtype=np.int32)
            ranks = np.maximum(1, np.ceil(percent / 100 * total[:, -1:]))
            parts.append(self.values[np.minimum((total < ranks).sum(axis=1), self.count - 1)])
        return np.concatenate(parts)


def _collect(records: Sequence[Record]) -> dict[tuple[str, str], list[tuple[float, str]]]:
    values: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for record in records:
        if record.ok and not record.warmup:
            for group in groups_of(record):
                for metric in METRICS:
                    value = getattr(record, metric)
                    if value is not None:
                        # Sub-agents belong to their parent's session.
                        cluster = record.session.partition(".")[0]
                        values.setdefault((group, metric), []).append((value, f"{record.stage}/{cluster}"))
    return values


def _row(
    group: str, metric: str, statistic: str, percent: float, a: _Side, b: _Side, tolerance: float,
    rng: np.random.Generator,
) -> Row:  # fmt: skip
    of_a, of_b = a.statistic(percent), b.statistic(percent)
    ratio = of_b / max(of_a, 1e-9)
    low = high = None
    verdict: Verdict = "too few"
    if min(a.count, b.count) >= _NEEDED[statistic]:
        ratios = b.resampled(percent, rng) / np.maximum(a.resampled(percent, rng), 1e-9)
        low, high = (float(value) for value in np.percentile(ratios, [2.5, 97.5]))
        verdict = judge(low, high, tolerance)
    return Row(group, metric, statistic, a.count, b.count, of_a, of_b, ratio, low, high, verdict)


def judge(low: float, high: float, tolerance: float) -> Verdict:
    """What an interval of the ratio of durations says; below 1 is faster."""
    if high < 1 - tolerance:
        return "better"
    if low > 1 + tolerance:
        return "worse"
    return "same" if low >= 1 - tolerance and high <= 1 + tolerance else "inconclusive"
