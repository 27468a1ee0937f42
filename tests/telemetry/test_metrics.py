"""From counters to metrics: what is read, what is exported, and that nothing of it can disturb a scheduler."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.store import StoreCounters
from sgl_indexcache.telemetry import events, names
from sgl_indexcache.telemetry.events import Fallback
from sgl_indexcache.telemetry.prometheus import Exporter
from sgl_indexcache.telemetry.readings import Reader, Readings, Sources, spelled
from sgl_indexcache.telemetry.scheduler import INTERVAL_S, PER_STEP, Telemetry
from sgl_indexcache.telemetry.two_level import LayerRecall, TwoLevelWork
from sgl_indexcache.telemetry.work import IndexerWork


def read(**sources: Any) -> Readings:
    return Reader().read(Sources(**{"pattern": Pattern("FSFS"), **sources}))


def value(found: Readings, metric: names.Metric, *labels: str) -> float:
    return found[metric, labels]


def backend(**fields: Any) -> Any:
    return SimpleNamespace(**{"work": IndexerWork(), "kernels": {}, "two_level": None, **fields})


def test_every_family_is_there_whatever_is_off() -> None:
    for sources in ({}, {"backend": backend()}, {"backend": backend(two_level=two_level())}):
        found = read(**sources)
        without = {names.KERNEL_INFO}
        assert {metric for metric, _ in found} == set(names.CATALOGUE) - without
        assert all(len(labels) == len(metric.labels) for metric, labels in found)
    assert value(read(), names.ACTIVE) == 0
    assert value(read(backend=backend()), names.ACTIVE) == 1


def test_a_catalogue_of_sound_names() -> None:
    scraped = [metric.scraped for metric in names.CATALOGUE]
    assert len(set(scraped)) == len(scraped)
    declared = {item for item in vars(names).values() if isinstance(item, names.Metric)}
    assert declared == set(names.CATALOGUE)
    for metric in names.CATALOGUE:
        assert re.fullmatch(r"sgl_indexcache_[a-z_]+[a-z]", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket", "_created"))
        assert metric.help.endswith(".")
        assert all(bool(label.values) != bool(label.bound) for label in metric.labels)


def test_exact_scoring() -> None:
    work = IndexerWork(full_rows=10, full_keys=100, shared_rows=30, shared_keys=300, reused_rows=2, reused_keys=20)
    found = read(backend=backend(work=work))
    assert value(found, names.INDEXER_ROWS, "full", "scored", "exact") == 10
    assert value(found, names.INDEXER_KEYS, "full", "scored", "exact") == 100
    assert value(found, names.INDEXER_KEYS, "full", "scored", "two_level") == 0
    assert value(found, names.INDEXER_KEYS, "shared", "skipped", "producer") == 300
    assert value(found, names.INDEXER_KEYS, "full", "skipped", "snapshot") == 20
    assert value(found, names.SELECTIONS_REUSED, "snapshot") == 2
    assert value(found, names.SELECTIONS_REUSED, "producer") == 30


def two_level() -> Any:
    work = TwoLevelWork(rows=6, exact_rows=4, exact_keys=50, keys_seen=200, keys_scored=120, summaries_scored=9)
    work.layers[0] = LayerRecall(rows=2, expected=64, held=60, fallbacks=3)
    return SimpleNamespace(work=work, records=SimpleNamespace(used_bytes=1000, valid_pages=7, pages=10))


def test_two_level_scoring() -> None:
    work = IndexerWork(full_rows=10, full_keys=200)
    found = read(backend=backend(work=work, two_level=two_level()), recall_floor=0.9)
    assert value(found, names.INDEXER_ROWS, "full", "scored", "exact") == 4
    assert value(found, names.INDEXER_ROWS, "full", "scored", "two_level") == 6
    every = {labels: n for (metric, labels), n in found.items() if metric is names.INDEXER_KEYS}
    keys = {labels[1:]: n for labels, n in every.items() if labels[0] == "full"}
    assert keys["scored", "exact"] == 50
    assert keys["scored", "two_level"] == 70
    assert keys["skipped", "shortlist"] == 80
    assert sum(keys.values()) == 200
    assert value(found, names.RECALL_POSITIONS, "0", "found") == 60
    assert value(found, names.RECALL_POSITIONS, "0", "missed") == 4
    assert value(found, names.RECALL_POSITIONS, "2", "found") == 0
    assert value(found, names.FALLBACKS, "recall") == 3
    assert value(found, names.RECALL_FLOOR) == 0.9
    assert value(found, names.STORE_PAGES_VALID) == 7
    assert value(found, names.STORE_BYTES, "pages") == 1000


def test_decode_steps_that_two_level_scoring_leaves_are_scored_exactly() -> None:
    work = IndexerWork(full_rows=13, full_keys=260)
    found = read(backend=backend(work=work, two_level=two_level()))
    assert value(found, names.INDEXER_ROWS, "full", "scored", "exact") == 7
    assert value(found, names.INDEXER_KEYS, "full", "scored", "exact") == 110
    assert value(found, names.INDEXER_KEYS, "full", "scored", "two_level") == 70


def test_the_store() -> None:
    counters = StoreCounters(lookups=5, hits=3, kept=4, evicted=1, dropped=2, untracked=6, broken=7)
    gauges = {"slots": 9, "free": 2, "live": 3, "held": 4, "bytes": 100}
    found = read(store=SimpleNamespace(snapshot=lambda: {**vars_of(counters), **gauges}))
    assert value(found, names.SNAPSHOT_LOOKUPS, "hit") == 3
    assert value(found, names.SNAPSHOT_LOOKUPS, "miss") == 2
    assert [value(found, names.STORE_EVICTIONS, reason) for reason in ("room", "prefix")] == [1, 2]
    assert [value(found, names.STORE_LOST, reason) for reason in ("no_slot", "broken")] == [6, 7]
    assert [value(found, names.STORE_SNAPSHOTS, state) for state in ("held", "live", "free")] == [4, 3, 2]


def vars_of(counters: StoreCounters) -> dict[str, int]:
    return {name: getattr(counters, name) for name in counters.__slots__}


def test_the_store_says_what_is_read_of_it() -> None:
    """A renamed counter would read 0 for ever."""
    from sgl_indexcache.store import IndexStore, Pool

    said = IndexStore(Pool(1 << 20, 2, 64, 16), [0, 1], 4, 0.0).snapshot()
    counted = {"lookups", "hits", "kept", "evicted", "dropped", "untracked", "broken"}
    assert counted | {"free", "live", "held", "bytes"} <= set(said)


def test_patterns_named_are_bounded() -> None:
    reader = Reader()
    patterns = [Pattern("F" + format(number, "06b").replace("0", "F").replace("1", "S")) for number in range(40)]
    for pattern in patterns:
        found = reader.read(Sources(pattern=pattern))
        in_force = [labels for (metric, labels), n in found.items() if metric is names.PATTERN_INFO and n == 1]
        assert len(in_force) == 1
    labels = {labels for metric, labels in found if metric is names.PATTERN_INFO}
    assert len(labels) == names.MOST_PATTERNS + 1
    assert in_force == [(names.OTHER,)]
    again = reader.read(Sources(pattern=patterns[0]))
    assert value(again, names.PATTERN_INFO, str(patterns[0])) == 1
    assert value(again, names.PATTERN_INFO, names.OTHER) == 0


def test_the_kernel_in_use_is_1_and_the_one_before_0() -> None:
    reader, kernels = Reader(), {("decode", "attention"): "fa3"}
    reader.read(Sources(backend=backend(kernels=kernels)))
    kernels["decode", "attention"] = "flashinfer"
    found = reader.read(Sources(backend=backend(kernels=kernels)))
    assert value(found, names.KERNEL_INFO, "decode", "attention", "fa3") == 0
    assert value(found, names.KERNEL_INFO, "decode", "attention", "flashinfer") == 1


def test_spelled_as_scraped() -> None:
    found = spelled(read())
    assert found["sgl_indexcache_active"] == 0
    assert found['sgl_indexcache_indexer_rows_total{layers="full",result="scored",reason="exact"}'] == 0
    assert found['sgl_indexcache_layers{layers="shared"}'] == 2


def test_exporter_adds_what_came_and_survives_a_source_that_began_anew() -> None:
    registry = CollectorRegistry()
    exporter = Exporter({"model_name": "m", "tp_rank": 0}, registry)
    work = IndexerWork(shared_rows=5)

    def exported() -> float | None:
        for key, value in read(backend=backend(work=work)).items():
            exporter.write(key, value)
        return registry.get_sample_value(
            "sgl_indexcache_selections_reused_total", {"model_name": "m", "tp_rank": "0", "source": "producer"}
        )

    assert exported() == 5
    assert exported() == 5
    work.shared_rows = 8
    assert exported() == 8
    work.shared_rows = 2
    assert exported() == 8
    work.shared_rows = 3
    assert exported() == 9


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_step_reads_at_most_once_an_interval() -> None:
    clock, asked = Clock(), []
    telemetry = Telemetry(lambda: asked.append(1) or Sources(), None, clock)  # type: ignore[func-returns-value]
    for step in range(100):
        clock.now = step * INTERVAL_S / 10
        telemetry.step()
    assert len(asked) == 10


class Written:
    """In the place of an exporter."""

    def __init__(self) -> None:
        self.values: Readings = {}
        self.count = 0

    def write(self, key: Any, value: float) -> None:
        self.values[key] = value
        self.count += 1


def test_a_step_writes_a_few_metrics_and_the_steps_after_it_the_others() -> None:
    clock, written, work = Clock(), Written(), IndexerWork(full_rows=1)
    sources = Sources(backend=backend(work=work), pattern=Pattern("FSFS"))
    telemetry = Telemetry(lambda: sources, written, clock)  # type: ignore[arg-type]
    each = []
    for _ in range(100):
        before = written.count
        telemetry.step()
        each.append(written.count - before)
    assert max(each) == PER_STEP
    assert each[-1] == 0
    assert written.values == Reader().read(sources)


def test_an_idle_moment_ends_the_update_under_way() -> None:
    clock, written = Clock(), Written()
    sources = Sources(pattern=Pattern("FSFS"))
    telemetry = Telemetry(lambda: sources, written, clock)  # type: ignore[arg-type]
    telemetry.step()
    assert telemetry.updating
    assert telemetry.snapshot()["metrics"] == spelled(Reader().read(sources))  # another walk meanwhile
    telemetry.idle()
    assert not telemetry.updating
    assert written.values == Reader().read(sources)
    assert written.count == len(written.values)


def test_a_defect_ends_telemetry_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    clock, asked = Clock(), []

    def sources() -> Sources:
        asked.append(1)
        raise RuntimeError("broken")

    telemetry = Telemetry(sources, None, clock)
    for step in range(3):
        clock.now = float(step)
        telemetry.step()
    assert len(asked) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_fallbacks_become_events() -> None:
    emitted: list[Any] = []
    work, clock = two_level(), Clock()
    telemetry = Telemetry(lambda: Sources(backend=backend(two_level=work)), None, clock)
    events.connect(emitted.append)
    try:
        telemetry.step()
        assert emitted == [Fallback(layer=0, reason="recall", turns=3)]
        work.work.layers[2].fallbacks += 2
        clock.now = 1.0
        telemetry.step()
        assert emitted[1:] == [Fallback(layer=2, reason="recall", turns=2)]
    finally:
        events.connect(None)
    assert isinstance(work.work.layers, defaultdict)


def test_snapshot_events_tell_numbers_and_hashes_only() -> None:
    emitted: list[Any] = []
    listener = events.SnapshotEvents()
    listener.stored(3, 64, [1, 2, 3], "salt")
    events.connect(emitted.append)
    try:
        listener.reused(3, 2)  # stored before anybody listened
        listener.stored(3, 64, [70001, 70002], "secret-salt")
        listener.reused(3, 2)
        listener.stored(4, 64, [70001, 70002], "secret-salt")
        listener.stored(5, 64, [70001, 70002], "another")
        listener.stored(3, 64, [70001, 70002, 70003], "secret-salt")
        listener.evicted(3, "room")
        listener.evicted(9, "room")
    finally:
        events.connect(None)
    kinds = [event.__struct_config__.tag.removeprefix("prefix_") for event in emitted]
    assert kinds == ["stored", "reused", "stored", "stored", "evicted", "stored", "evicted"]
    stored = [event for event in emitted if isinstance(event, events.PrefixStored)]
    assert stored[0].tail == stored[1].tail != stored[2].tail
    assert [event.snapshot for event in stored] == [1, 2, 3, 4]
    assert emitted[4] == events.PrefixEvicted(snapshot=1, tokens=64, reason="replaced")
    other = events.SnapshotEvents()
    assert other._hash(64, [70001, 70002], "secret-salt") != stored[0].tail
    text = repr(emitted)
    assert not re.search(r"\b7000\d\b", text)  # a number of its own: a hash may hold any digits
    assert "salt" not in text
    assert listener._slots.keys() == {4, 5}


def test_the_store_tells_its_listener() -> None:
    from tests.store.simulation import Simulation

    emitted: list[Any] = []
    simulation = Simulation(slots=4, settled=1.0)
    simulation.store.listener = events.SnapshotEvents()
    events.connect(emitted.append)
    try:
        for first in (100, 100, 200, 300, 400, 500, 600):
            request = simulation.admit(list(range(first, first + 11)), None, 64)
            assert request is not None
            simulation.finish(request)
    finally:
        events.connect(None)
    counters = simulation.store.counters
    kinds = [type(event) for event in emitted]
    assert kinds.count(events.PrefixReused) == counters.hits > 0
    assert kinds.count(events.PrefixStored) >= counters.kept > 0
    evicted = [event for event in emitted if isinstance(event, events.PrefixEvicted)]
    assert sum(event.reason == "room" for event in evicted) > 0
    held = {event.snapshot for event in emitted if isinstance(event, events.PrefixStored)}
    held -= {event.snapshot for event in evicted}
    assert len(held) == simulation.store.snapshot()["held"]


def test_the_seams_leave_prometheus_client_to_sglang() -> None:
    """It decides at its import where values go: before SGLang has named the folder, SGLang's own would be lost."""
    program = """
import sys
import sgl_indexcache.plugin
sgl_indexcache.plugin.activate()
import sgl_indexcache.sglang_port.registry, sgl_indexcache.telemetry.scheduler
print([name for name in sys.modules if name.startswith(("prometheus_client", "sgl_indexcache.telemetry.prom"))])
"""
    environment = {**os.environ, "SGLANG_USE_CPU_ENGINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
