"""Percentiles and rates from SGLang's own metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HISTOGRAMS = {
    "ttft_ms": "sglang:time_to_first_token_seconds",
    "itl_ms": "sglang:inter_token_latency_seconds",
    "e2e_ms": "sglang:e2e_request_latency_seconds",
}
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_VALUES = (
    "sglang:num_running_reqs",
    "sglang:num_queue_reqs",
    "sglang:token_usage",
    "sglang:prompt_tokens_total",
    "sglang:cached_tokens_total",
    "sglang:generation_tokens_total",
)


@dataclass(slots=True)
class Serving:
    """Sums over labels at one moment: values by name, and cumulative bucket counts by histogram and upper bound."""

    values: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)


def read(text: str) -> Serving:
    """From the text of /metrics; a text in another format gives nothing."""
    from prometheus_client.parser import text_string_to_metric_families

    serving = Serving()
    bucket_names = {f"{name}_bucket": name for name in HISTOGRAMS.values()}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in _VALUES:
                    serving.values[sample.name] = serving.values.get(sample.name, 0.0) + sample.value
                elif (name := bucket_names.get(sample.name)) is not None:
                    bounds = serving.buckets.setdefault(name, {})
                    bound = float(sample.labels.get("le", "inf"))
                    bounds[bound] = bounds.get(bound, 0.0) + sample.value
    except ValueError:
        return Serving()
    return serving


def percentiles(now: Mapping[float, float], before: Mapping[float, float]) -> dict[str, float] | None:
    """Milliseconds by name of what came between two looks, on a line within a bucket; None when nothing came."""
    bounds = sorted(now)
    counts = [now[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    return {name: 1000 * _at(bounds, counts, share * counts[-1]) for name, share in QUANTILES.items()}


def _at(bounds: Sequence[float], counts: Sequence[float], rank: float) -> float:
    low, below = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= rank:
            if math.isinf(bound):
                return low
            return low + (bound - low) * ((rank - below) / (count - below) if count > below else 1.0)
        low, below = bound, count
    return low
