"""From the counters of the rooms to one flat set of readings, which /metrics and /server_info both show.

The rooms count in plain integers and know nothing of this file; what is not there (no store, exact scoring, a backend
without counters) reads 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sgl_indexcache import __version__
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.telemetry import names
from sgl_indexcache.telemetry.events import KINDS
from sgl_indexcache.telemetry.names import Metric
from sgl_indexcache.telemetry.two_level import TwoLevelWork
from sgl_indexcache.telemetry.work import IndexerWork

if TYPE_CHECKING:
    from sgl_indexcache.telemetry.publisher import Publisher

Key = tuple[Metric, tuple[str, ...]]
"""Family and label values, these in the family's order."""
Readings = dict[Key, float]
Walk = Iterator[tuple[Key, float]]


class PageCounts(Protocol):
    """Page records (store/page_records.py)."""

    @property
    def pages(self) -> int: ...
    @property
    def valid_pages(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...


class TwoLevelSource(Protocol):
    """Two-level scoring (indexer/two_level.py)."""

    @property
    def work(self) -> TwoLevelWork: ...
    @property
    def records(self) -> PageCounts: ...


class BackendSource(Protocol):
    """An attention backend (attention/base.py); `kernels` names the kernel in use by (phase, work)."""

    @property
    def work(self) -> IndexerWork: ...
    @property
    def kernels(self) -> dict[tuple[str, str], str]: ...
    @property
    def two_level(self) -> TwoLevelSource | None: ...


class StoreSource(Protocol):
    """The index store (store/slots.py)."""

    def snapshot(self) -> dict[str, int]: ...


@dataclass(slots=True)
class Sources:
    """What a scheduler has to read from; None is off or not there yet."""

    backend: BackendSource | None = None
    pattern: Pattern | None = None
    store: StoreSource | None = None
    recall_floor: float = 0.0
    publisher: "Publisher | None" = None


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
        """Everything in the catalogue, at once."""
        return dict(self.walk(sources))

    def walk(self, sources: Sources) -> Walk:
        """The same one by one, each group read when it is reached. A counter never falls while its source lives."""
        backend = sources.backend
        two_level = None if backend is None else backend.two_level
        listed = None if two_level is None else two_level.work
        yield (names.ACTIVE, ()), float(backend is not None)
        yield (names.BUILD_INFO, (__version__,)), 1.0
        if sources.pattern is not None:
            yield from self._pattern(sources.pattern)
        yield from self._kernels_in_use({} if backend is None else backend.kernels)
        yield from _work(IndexerWork() if backend is None else backend.work, listed or TwoLevelWork())
        yield from _store(sources.store)
        yield from _pages(None if two_level is None else two_level.records)
        yield from self._recall(listed, sources)
        yield from _events(sources.publisher)

    def _pattern(self, pattern: Pattern) -> Walk:
        if pattern is not self._last:
            self._last = pattern
            text = str(pattern)
            known = text in self._patterns or len(self._patterns) < names.MOST_PATTERNS
            self._label = text if known else names.OTHER
            self._patterns[self._label] = None
            self._layers.update(dict.fromkeys(pattern.full_layers))
            self._full = len(pattern.full_layers)
        for named in tuple(self._patterns):
            yield (names.PATTERN_INFO, (named,)), float(named == self._label)
        yield (names.LAYERS, ("full",)), self._full
        yield (names.LAYERS, ("shared",)), len(pattern) - self._full

    def _kernels_in_use(self, kernels: dict[tuple[str, str], str]) -> Walk:
        for (phase, work), kernel in kernels.items():
            self._kernels[phase, work, kernel] = None
        for phase, work, kernel in tuple(self._kernels):
            yield (names.KERNEL_INFO, (phase, work, kernel)), float(kernels.get((phase, work)) == kernel)

    def _recall(self, work: TwoLevelWork | None, sources: Sources) -> Walk:
        fallbacks = 0
        # A copy, here as above: another walk may name more meanwhile.
        for layer in tuple(self._layers):
            label = str(layer)
            recall = None if work is None else work.layers.get(layer)
            rows, expected, held = (0, 0, 0) if recall is None else (recall.rows, recall.expected, recall.held)
            fallbacks += 0 if recall is None else recall.fallbacks
            yield (names.RECALL_ROWS, (label,)), rows
            yield (names.RECALL_POSITIONS, (label, "found")), held
            yield (names.RECALL_POSITIONS, (label, "missed")), expected - held
        yield (names.RECALL_FLOOR, ()), 0.0 if work is None else sources.recall_floor
        yield (names.FALLBACKS, ("recall",)), fallbacks


def _work(work: IndexerWork, listed: TwoLevelWork) -> Walk:
    """Rows and keys that Full layers' indexers scored and were spared, and those of Shared layers."""
    rows, keys = names.INDEXER_ROWS, names.INDEXER_KEYS
    # What no list was made for was scored exactly; on CUDA that are decode steps, too, which two-level scoring leaves.
    yield (rows, ("full", "scored", "exact")), max(0, work.full_rows - listed.rows)
    yield (rows, ("full", "scored", "two_level")), listed.rows
    yield (keys, ("full", "scored", "exact")), max(0, work.full_keys - (listed.keys_seen - listed.exact_keys))
    yield (keys, ("full", "scored", "two_level")), listed.keys_scored - listed.exact_keys
    yield (keys, ("full", "skipped", "shortlist")), listed.keys_seen - listed.keys_scored
    yield (rows, ("full", "skipped", "snapshot")), work.reused_rows
    yield (keys, ("full", "skipped", "snapshot")), work.reused_keys
    yield (rows, ("shared", "skipped", "producer")), work.shared_rows
    yield (keys, ("shared", "skipped", "producer")), work.shared_keys
    yield (names.SELECTIONS_REUSED, ("producer",)), work.shared_rows
    yield (names.SELECTIONS_REUSED, ("snapshot",)), work.reused_rows
    yield (names.SUMMARIES_SCORED, ()), listed.summaries_scored


def _store(store: StoreSource | None) -> Walk:
    held = {} if store is None else store.snapshot()
    for state in ("held", "live", "free"):
        yield (names.STORE_SNAPSHOTS, (state,)), held.get(state, 0)
    yield (names.STORE_BYTES, ("snapshots",)), held.get("bytes", 0)
    hits = held.get("hits", 0)
    yield (names.SNAPSHOT_LOOKUPS, ("hit",)), hits
    yield (names.SNAPSHOT_LOOKUPS, ("miss",)), held.get("lookups", 0) - hits
    yield (names.SNAPSHOTS_KEPT, ()), held.get("kept", 0)
    yield (names.STORE_EVICTIONS, ("room",)), held.get("evicted", 0)
    yield (names.STORE_EVICTIONS, ("prefix",)), held.get("dropped", 0)
    yield (names.STORE_LOST, ("no_slot",)), held.get("untracked", 0)
    yield (names.STORE_LOST, ("broken",)), held.get("broken", 0)


def _pages(pages: PageCounts | None) -> Walk:
    yield (names.STORE_BYTES, ("pages",)), 0 if pages is None else pages.used_bytes
    yield (names.STORE_PAGES_VALID, ()), 0 if pages is None else pages.valid_pages
    yield (names.STORE_PAGES, ()), 0 if pages is None else pages.pages


def _events(publisher: "Publisher | None") -> Walk:
    for kind in KINDS:
        yield (names.EVENTS, (kind,)), 0 if publisher is None else publisher.counts.by_kind.get(kind, 0)
    dropped, answered, refused = (
        (0, 0, 0)
        if publisher is None
        else (publisher.counts.dropped, publisher.counts.answered, publisher.counts.refused)
    )
    yield (names.EVENTS_DROPPED, ()), dropped
    yield (names.REPLAY_REQUESTS, ("answered",)), answered
    yield (names.REPLAY_REQUESTS, ("refused",)), refused


def spelled(readings: Readings) -> dict[str, float]:
    """The readings as in /metrics, without SGLang's labels: `name{label="value"}` to value."""
    series = {}
    for (metric, values), value in readings.items():
        labels = ",".join(f'{label.name}="{text}"' for label, text in zip(metric.labels, values, strict=True))
        series[f"{metric.scraped}{{{labels}}}" if labels else metric.scraped] = value
    return series
