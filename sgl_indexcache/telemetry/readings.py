"""From the counters of the rooms to one flat set of readings, which /metrics and /server_info both show.

The rooms count in plain integers and know nothing of this file; what is not there (no store, exact scoring, a backend
without counters) reads 0.
"""

from dataclasses import dataclass, field
from typing import Any

from sgl_indexcache import __version__
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.telemetry import names
from sgl_indexcache.telemetry.events import KINDS
from sgl_indexcache.telemetry.names import Metric

Readings = dict[tuple[Metric, tuple[str, ...]], float]
"""Value by family and label values, these in the family's order."""


@dataclass(slots=True)
class Sources:
    """What a scheduler has to read from; None is off or not there yet.

    backend    may have `work` (telemetry/work.py), `two_level` (indexer/two_level.py) and `kernels`, the name of the
               kernel in use by (phase, work)
    store      has `snapshot()`, see store/store.py
    publisher  has `counts`, see telemetry/publisher.py
    """

    backend: Any = None
    pattern: Pattern | None = None
    store: Any = None
    recall_floor: float = 0.0
    publisher: Any = None


@dataclass(slots=True)
class Reader:
    """Reads the sources again and again, and remembers which labels were named, so that these stay bounded."""

    _patterns: dict[str, None] = field(default_factory=dict)
    _kernels: dict[tuple[str, str, str], None] = field(default_factory=dict)
    _layers: dict[int, None] = field(default_factory=dict)
    _last: Pattern | None = None
    _full: int = 0
    _label: str = ""

    def read(self, sources: Sources) -> Readings:
        """Everything in the catalogue. A counter never falls while its source lives."""
        backend = sources.backend
        two_level = getattr(backend, "two_level", None)
        found: Readings = {
            (names.ACTIVE, ()): float(backend is not None),
            (names.BUILD_INFO, (__version__,)): 1.0,
        }
        if sources.pattern is not None:
            self._pattern(found, sources.pattern)
        self._kernels_in_use(found, getattr(backend, "kernels", {}))
        _work(found, getattr(backend, "work", None), getattr(two_level, "work", None))
        _store(found, sources.store, getattr(two_level, "pages", None))
        self._recall(found, getattr(two_level, "work", None), sources)
        _events(found, sources.publisher)
        return found

    def _pattern(self, found: Readings, pattern: Pattern) -> None:
        if pattern is not self._last:
            self._last = pattern
            text = str(pattern)
            known = text in self._patterns or len(self._patterns) < names.MOST_PATTERNS
            self._label = text if known else names.OTHER
            self._patterns[self._label] = None
            self._layers.update(dict.fromkeys(pattern.full_layers))
            self._full = len(pattern.full_layers)
        for named in self._patterns:
            found[names.PATTERN_INFO, (named,)] = float(named == self._label)
        found[names.LAYERS, ("full",)] = self._full
        found[names.LAYERS, ("shared",)] = len(pattern) - self._full

    def _kernels_in_use(self, found: Readings, kernels: dict[tuple[str, str], str]) -> None:
        for (phase, work), kernel in kernels.items():
            self._kernels[phase, work, kernel] = None
        for phase, work, kernel in self._kernels:
            found[names.KERNEL_INFO, (phase, work, kernel)] = float(kernels.get((phase, work)) == kernel)

    def _recall(self, found: Readings, work: Any, sources: Sources) -> None:
        fallbacks = 0
        for layer in self._layers:
            label = str(layer)
            seen = None if work is None else work.layers.get(layer)
            rows, wanted, hit = (0, 0, 0) if seen is None else (seen.rows, seen.wanted, seen.found)
            fallbacks += 0 if seen is None else seen.fallbacks
            found[names.RECALL_ROWS, (label,)] = rows
            found[names.RECALL_POSITIONS, (label, "found")] = hit
            found[names.RECALL_POSITIONS, (label, "missed")] = wanted - hit
        found[names.RECALL_FLOOR, ()] = 0.0 if work is None else sources.recall_floor
        found[names.FALLBACKS, ("recall",)] = fallbacks
        found[names.FALLBACKS, ("invalid",)] = 0 if work is None else work.invalid


def _work(found: Readings, work: Any, two_level: Any) -> None:
    """Rows and keys that Full layers' indexers scored and were spared, and those of Shared layers."""
    rows, keys = names.INDEXER_ROWS, names.INDEXER_KEYS
    full_rows, full_keys = _ints(work, "full_rows", "full_keys")
    shared_rows, shared_keys = _ints(work, "shared_rows", "shared_keys")
    reused_rows, reused_keys = _ints(work, "reused_rows", "reused_keys")
    listed_rows, exact_rows, exact_keys = _ints(two_level, "rows", "exact_rows", "exact_keys")
    seen, scored, summaries = _ints(two_level, "keys_seen", "keys_scored", "summaries_scored")
    if two_level is None:
        exact_rows, exact_keys = full_rows, full_keys
    found[rows, ("full", "scored", "exact")] = exact_rows
    found[rows, ("full", "scored", "two_level")] = listed_rows
    found[keys, ("full", "scored", "exact")] = exact_keys
    found[keys, ("full", "scored", "two_level")] = scored - (exact_keys if two_level is not None else 0)
    found[keys, ("full", "skipped", "shortlist")] = seen - scored
    found[rows, ("full", "skipped", "snapshot")] = reused_rows
    found[keys, ("full", "skipped", "snapshot")] = reused_keys
    found[rows, ("shared", "skipped", "producer")] = shared_rows
    found[keys, ("shared", "skipped", "producer")] = shared_keys
    found[names.SELECTIONS_REUSED, ("producer",)] = shared_rows
    found[names.SELECTIONS_REUSED, ("snapshot",)] = reused_rows
    found[names.SUMMARIES_SCORED, ()] = summaries


def _store(found: Readings, store: Any, pages: Any) -> None:
    held = {} if store is None else store.snapshot()
    for state in ("held", "live", "free"):
        found[names.STORE_SNAPSHOTS, (state,)] = held.get(state, 0)
    found[names.STORE_BYTES, ("snapshots",)] = held.get("bytes", 0)
    found[names.STORE_BYTES, ("pages",)] = 0 if pages is None else pages.used_bytes
    found[names.STORE_PAGES_VALID, ()] = 0 if pages is None else pages.valid_pages
    found[names.STORE_PAGES, ()] = 0 if pages is None else pages.pages
    hits = held.get("hits", 0)
    found[names.SNAPSHOT_LOOKUPS, ("hit",)] = hits
    found[names.SNAPSHOT_LOOKUPS, ("miss",)] = held.get("lookups", 0) - hits
    found[names.SNAPSHOTS_KEPT, ()] = held.get("kept", 0)
    found[names.STORE_EVICTIONS, ("room",)] = held.get("evicted", 0)
    found[names.STORE_EVICTIONS, ("prefix",)] = held.get("dropped", 0)
    found[names.STORE_LOST, ("no_slot",)] = held.get("untracked", 0)
    found[names.STORE_LOST, ("broken",)] = held.get("broken", 0)


def _events(found: Readings, publisher: Any) -> None:
    for kind in KINDS:
        found[names.EVENTS, (kind,)] = 0 if publisher is None else publisher.counts.by_kind.get(kind, 0)
    dropped, answered, refused = (
        (0, 0, 0)
        if publisher is None
        else (publisher.counts.dropped, publisher.counts.answered, publisher.counts.refused)
    )
    found[names.EVENTS_DROPPED, ()] = dropped
    found[names.REPLAY_REQUESTS, ("answered",)] = answered
    found[names.REPLAY_REQUESTS, ("refused",)] = refused


def _ints(source: Any, *fields: str) -> tuple[int, ...]:
    return tuple(getattr(source, name, 0) for name in fields)


def spelled(readings: Readings) -> dict[str, float]:
    """The readings as in /metrics, without SGLang's labels: `name{label="value"}` to value."""
    found = {}
    for (metric, values), value in readings.items():
        labels = ",".join(f'{label.name}="{text}"' for label, text in zip(metric.labels, values, strict=True))
        found[f"{metric.scraped}{{{labels}}}" if labels else metric.scraped] = value
    return found
