"""From one or two samples to the figures that are shown or printed as JSON."""

import re
from collections.abc import Mapping
from typing import Any

from sgl_indexcache.telemetry import names
from sgl_indexcache.telemetry.names import Metric
from sgl_indexcache.top import latency
from sgl_indexcache.top.source import Sample

SCHEMA = "sgl_indexcache.top/1"

_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Values:
    """The plugin's metrics by family and labels; `before` is taken off counters."""

    def __init__(self, now: Mapping[str, float], before: Mapping[str, float]) -> None:
        self._series: dict[str, list[tuple[dict[str, str], float]]] = {}
        counters = {metric.scraped for metric in names.CATALOGUE if metric.kind == "counter"}
        for spelled, value in now.items():
            name, _, labels = spelled.partition("{")
            less = before.get(spelled, 0.0) if name in counters else 0.0
            # A counter below what it was: the server was restarted.
            value = value - less if value >= less else value
            self._series.setdefault(name, []).append((dict(_LABEL.findall(labels)), value))

    def sum(self, metric: Metric, **labels: str) -> float:
        """Sum of the series with these labels; 0 without any."""
        return sum(value for _, value in self.each(metric, **labels))

    def each(self, metric: Metric, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of the series with these labels."""
        series = self._series.get(metric.scraped, [])
        return [(own, value) for own, value in series if all(own.get(name) == text for name, text in labels.items())]


def share(part: float, whole: float) -> float | None:
    """Part of whole; None of nothing."""
    return part / whole if whole > 0 else None


def figures(url: str, now: Sample, before: Sample | None = None) -> dict[str, Any]:
    """Everything that is shown. Counters, rates and percentiles are those since `before`, or of the server's life.

    Keys: schema, url, model, version, active, pattern, scoring, interval_s, indexer, snapshots, store, recall,
    kernels, layers, events (without `recent`), serving and latency (None where the server has no /metrics). Shares
    are between 0 and 1, and None where there was nothing to have a share of.
    """
    values = Values(now.ours, before.ours if before else {})
    return {
        "schema": SCHEMA,
        "url": url,
        "model": now.model,
        "version": now.state.get("version"),
        "active": values.sum(names.ACTIVE) > 0,
        "pattern": now.state.get("pattern"),
        "scoring": now.state.get("scoring"),
        "interval_s": round(now.moment - before.moment, 3) if before else None,
        "indexer": _indexer(values),
        "snapshots": _snapshots(values),
        "store": _store(values),
        "recall": _recall(values),
        "kernels": _kernels(values),
        "layers": _layers(str(now.state.get("pattern") or ""), values),
        "events": {
            "total": values.sum(names.EVENTS),
            "by_kind": {own["kind"]: value for own, value in values.each(names.EVENTS)},
            "dropped": values.sum(names.EVENTS_DROPPED),
        },
        **_serving(now, before),
    }


def _indexer(values: Values) -> dict[str, Any]:
    units: dict[str, Any] = {}
    for unit, metric in (("rows", names.INDEXER_ROWS), ("keys", names.INDEXER_KEYS)):
        skipped, scored = values.sum(metric, result="skipped"), values.sum(metric, result="scored")
        total = skipped + scored
        units[unit] = {
            "scored": scored,
            "skipped": skipped,
            "skipped_share": share(skipped, total),
            "skipped_share_by_reason": {
                own["reason"]: share(value, total) for own, value in values.each(metric, result="skipped")
            },
        }
    return units


def _snapshots(values: Values) -> dict[str, Any]:
    hits, misses = (values.sum(names.SNAPSHOT_LOOKUPS, result=result) for result in ("hit", "miss"))
    return {
        "lookups": hits + misses,
        "hit_rate": share(hits, hits + misses),
        "rows_reused": values.sum(names.SELECTIONS_REUSED, source="snapshot"),
        "kept": values.sum(names.SNAPSHOTS_KEPT),
        "evicted": values.sum(names.STORE_EVICTIONS),
    }


def _store(values: Values) -> dict[str, Any]:
    held, live, free = (values.sum(names.STORE_SNAPSHOTS, state=state) for state in ("held", "live", "free"))
    return {
        "held": held,
        "live": live,
        "free": free,
        "used_share": share(held + live, held + live + free),
        "bytes": values.sum(names.STORE_BYTES),
        "pages_valid": values.sum(names.STORE_PAGES_VALID),
        "pages": values.sum(names.STORE_PAGES),
    }


def _recall(values: Values) -> dict[str, Any]:
    hit, missed = (values.sum(names.RECALL_POSITIONS, result=result) for result in ("found", "missed"))
    return {
        "mean": share(hit, hit + missed),
        "floor": values.sum(names.RECALL_FLOOR),
        "sampled_rows": values.sum(names.RECALL_ROWS),
        "fallbacks": {own["reason"]: value for own, value in values.each(names.FALLBACKS)},
    }


def _kernels(values: Values) -> dict[str, dict[str, str]]:
    phases: dict[str, dict[str, str]] = {}
    for own, value in values.each(names.KERNEL_INFO):
        if value:
            phases.setdefault(own["phase"], {})[own["work"]] = own["kernel"]
    return phases


def _layers(pattern: str, values: Values) -> list[dict[str, Any]]:
    layers, producer = [], 0
    for layer, letter in enumerate(pattern):
        producer = layer if letter == "F" else producer
        label = str(producer)
        hit, missed = (values.sum(names.RECALL_POSITIONS, layer=label, result=result) for result in ("found", "missed"))
        layers.append({"layer": layer, "kind": letter, "producer": producer, "recall": share(hit, hit + missed)})
    return layers


def _serving(now: Sample, before: Sample | None) -> dict[str, Any]:
    if now.sglang is None:
        return {"serving": None, "latency": None}
    latest = latency.read(now.sglang)
    earlier = latency.read(before.sglang) if before is not None and before.sglang is not None else latency.Serving()
    seconds = now.moment - before.moment if before is not None else None

    def more(name: str) -> float:
        less = earlier.values.get(name, 0.0)
        value = latest.values.get(name, 0.0)
        return value - less if value >= less else value

    prompt, generated = more("sglang:prompt_tokens_total"), more("sglang:generation_tokens_total")
    return {
        "serving": {
            "running": latest.values.get("sglang:num_running_reqs", 0.0),
            "waiting": latest.values.get("sglang:num_queue_reqs", 0.0),
            "kv_used_share": latest.values.get("sglang:token_usage"),
            "prompt_tokens": prompt,
            "generated_tokens": generated,
            "prompt_tokens_per_s": prompt / seconds if seconds else None,
            "generated_tokens_per_s": generated / seconds if seconds else None,
            "prefix_hit_rate": share(more("sglang:cached_tokens_total"), prompt),
        },
        "latency": {
            name: latency.percentiles(latest.buckets.get(family, {}), earlier.buckets.get(family, {}))
            for name, family in latency.HISTOGRAMS.items()
        },
    }
