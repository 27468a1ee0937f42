"""The readings as Prometheus metrics, in SGLang's multiprocess folder and so in its /metrics.

prometheus_client decides at its import whether it writes to that folder; this file is therefore imported in a
scheduler, after SGLang has named the folder (utils/common.py:2354), and makes its families when they are first written.
"""

from collections.abc import Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from sgl_indexcache.telemetry.readings import Key, Readings


class Exporter:
    """Writes what has changed since the last time.

    labels are those of every metric, beside its own.
    """

    def __init__(self, labels: Mapping[str, object], registry: CollectorRegistry = REGISTRY) -> None:
        self._labels = {name: str(value) for name, value in labels.items()}
        self._registry = registry
        self._families: dict[str, Any] = {}
        self._children: dict[Key, Any] = {}
        self._last: Readings = {}

    def write(self, key: Key, value: float) -> None:
        """Bring one metric up to this reading. A counter that fell is a source that began anew and adds nothing."""
        before = self._last.get(key)
        if before == value:
            return
        child = self._children.get(key) or self._child(key)
        if key[0].kind == "gauge":
            child.set(value)
        elif value > (before or 0):
            child.inc(value - (before or 0))
        self._last[key] = value

    def _child(self, key: Key) -> Any:
        metric, values = key
        family = self._families.get(metric.name)
        if family is None:
            labels = (*self._labels, *(label.name for label in metric.labels))
            family = self._families[metric.name] = (
                Counter(metric.name, metric.help, labels, registry=self._registry)
                if metric.kind == "counter"
                else Gauge(metric.name, metric.help, labels, multiprocess_mode="mostrecent", registry=self._registry)
            )
        child = self._children[key] = family.labels(*self._labels.values(), *values)
        return child
