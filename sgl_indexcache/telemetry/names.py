"""Every metric of the plugin: name, kind, unit, labels and help. Dashboards, rules and `top` follow this list.

All of them also carry SGLang's own scheduler labels (model_name, engine_type, tp_rank, pp_rank, moe_ep_rank, and
dp_rank with data parallelism; observability/metrics_collector.py:1082). A row is one query of one layer, a key one
(query, key) pair of one layer. Every family is exported from the first idle moment on, whatever is switched on: what
is off counts nothing and stays 0. The values of every label are known beforehand or bounded; see `Label`.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge"]

PREFIX = "sgl_indexcache_"
MOST_PATTERNS = 16
"""Patterns that a process names in `pattern_info` over its life; later ones are called `other`."""
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Label:
    """A label, and either all its values or, where the model or the process decides, how many there can be."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""


# By identity: the readings are looked up by family, and hashing all fields would take most of a reading's time.
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One family; `name` is without the suffix `_total` that counters have when they are scraped."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[Label, ...] = ()

    @property
    def scraped(self) -> str:
        """The name in /metrics."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _counter(name: str, unit: str, text: str, *labels: Label) -> Metric:
    return Metric(PREFIX + name, "counter", unit, text, labels)


def _gauge(name: str, unit: str, text: str, *labels: Label) -> Metric:
    return Metric(PREFIX + name, "gauge", unit, text, labels)


_LAYERS = Label("layers", ("full", "shared"))
_REASON = Label("reason", ("exact", "two_level", "shortlist", "snapshot", "producer"))
_LAYER = Label("layer", bound="the model's Full layers")

ACTIVE = _gauge("active", "bool", "1 while this scheduler serves with the plugin's attention backend, else 0.")
BUILD_INFO = _gauge(
    "build_info", "info", "1; the plugin's version as a label.", Label("version", bound="one a process")
)
PATTERN_INFO = _gauge(
    "pattern_info",
    "info",
    "1 for the pattern in force, 0 for earlier ones.",
    Label("pattern", bound=f"{MOST_PATTERNS} a process, then {OTHER}"),
)
LAYERS = _gauge("layers", "layers", "Layers of the model by kind, as the pattern in force says.", _LAYERS)
KERNEL_INFO = _gauge(
    "kernel_info",
    "info",
    "1 for the kernel that served the newest forward of this phase, 0 for others seen before.",
    Label("phase", ("prefill", "decode")),
    Label("work", ("indexer", "attention")),
    Label("kernel", bound="the kernels that settings can name"),
)
INDEXER_ROWS = _counter(
    "indexer_rows",
    "rows",
    "Rows that an indexer scored, and rows that it was spared, by kind of layer and reason.",
    _LAYERS,
    Label("result", ("scored", "skipped")),
    _REASON,
)
INDEXER_KEYS = _counter(
    "indexer_keys",
    "keys",
    "Keys that an indexer scored, and keys that it was spared, by kind of layer and reason.",
    _LAYERS,
    Label("result", ("scored", "skipped")),
    _REASON,
)
SELECTIONS_REUSED = _counter(
    "selections_reused",
    "rows",
    "Selections taken over: from the nearest Full layer before (producer) or from the index store (snapshot).",
    Label("source", ("producer", "snapshot")),
)
SUMMARIES_SCORED = _counter(
    "summaries_scored", "summaries", "Page summaries that two-level scoring scored to make shortlists."
)
STORE_SNAPSHOTS = _gauge(
    "store_snapshots",
    "slots",
    "Slots for tail snapshots: held by a cached prefix, live (held only by a running request), free.",
    Label("state", ("held", "live", "free")),
)
STORE_BYTES = _gauge(
    "store_bytes",
    "bytes",
    "Memory that the index store took at start-up: tail snapshots, and page records of two-level scoring.",
    Label("part", ("snapshots", "pages")),
)
STORE_PAGES_VALID = _gauge("store_pages_valid", "pages", "KV pages whose record for two-level scoring is valid.")
STORE_PAGES = _gauge("store_pages", "pages", "KV pages that can have such a record.")
SNAPSHOT_LOOKUPS = _counter(
    "snapshot_lookups",
    "lookups",
    "Prefills that began at the end of a cached prefix, by whether they found a snapshot of their first rows.",
    Label("result", ("hit", "miss")),
)
SNAPSHOTS_KEPT = _counter("snapshots_kept", "snapshots", "Snapshots attached to a cached prefix.")
STORE_EVICTIONS = _counter(
    "store_evictions",
    "snapshots",
    "Snapshots given up: room (for others, or superseded) or prefix (their prefix left the radix tree).",
    Label("reason", ("room", "prefix")),
)
STORE_LOST = _counter(
    "store_lost",
    "pages",
    "Snapshots that were not written: no_slot (every slot in use) or broken (rows did not follow on the ones before).",
    Label("reason", ("no_slot", "broken")),
)
RECALL_ROWS = _counter(
    "recall_sampled_rows", "rows", "Rows of two-level scoring that were also scored exactly.", _LAYER
)
RECALL_POSITIONS = _counter(
    "recall_positions",
    "positions",
    "Positions of the sampled rows' exact selections, by whether two-level scoring found them; recall is found / all.",
    _LAYER,
    Label("result", ("found", "missed")),
)
RECALL_FLOOR = _gauge("recall_floor", "ratio", "Recall below which a context is scored exactly (scoring.recall_floor).")
FALLBACKS = _counter(
    "fallbacks",
    "turns",
    "Turns that two-level scoring left to exact scoring, since the recall of their context lay below the floor.",
    Label("reason", ("recall",)),
)
EVENTS = _counter(
    "events",
    "events",
    "Events handed to the event stream.",
    Label(
        "kind",
        ("prefix_stored", "prefix_reused", "prefix_evicted", "pattern_changed", "fallback"),
    ),
)
EVENTS_DROPPED = _counter("events_dropped", "events", "Events that were not published, because the queue was full.")
REPLAY_REQUESTS = _counter(
    "replay_requests",
    "requests",
    "Requests to the replay socket, by whether they were answered or refused as malformed.",
    Label("result", ("answered", "refused")),
)

CATALOGUE: tuple[Metric, ...] = (
    ACTIVE,
    BUILD_INFO,
    PATTERN_INFO,
    LAYERS,
    KERNEL_INFO,
    INDEXER_ROWS,
    INDEXER_KEYS,
    SELECTIONS_REUSED,
    SUMMARIES_SCORED,
    STORE_SNAPSHOTS,
    STORE_BYTES,
    STORE_PAGES_VALID,
    STORE_PAGES,
    SNAPSHOT_LOOKUPS,
    SNAPSHOTS_KEPT,
    STORE_EVICTIONS,
    STORE_LOST,
    RECALL_ROWS,
    RECALL_POSITIONS,
    RECALL_FLOOR,
    FALLBACKS,
    EVENTS,
    EVENTS_DROPPED,
    REPLAY_REQUESTS,
)
