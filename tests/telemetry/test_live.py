"""Telemetry of the real server on the CPU: what is scraped is the catalogue, and events tell what happened."""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sgl_indexcache.live.server import Server
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.pattern import Pattern, wire
from sgl_indexcache.telemetry import names
from sgl_indexcache.telemetry.events import (
    Envelope,
    Fallback,
    PatternChanged,
    PrefixEvicted,
    PrefixReused,
    PrefixStored,
)
from sgl_indexcache.telemetry.subscriber import Subscriber

from ..server import cpu_server, post

pytestmark = pytest.mark.engine

PATTERN = "FSF"
SETTINGS = f"""
pattern: {PATTERN}
scoring: {{mode: two_level, shortlist: 384, recall_floor: 1.0, sample_rows: 8}}
store: {{enabled: true, snapshot_mib: 8}}
"""
FLAGS = [
    *("--max-running-requests", "4", "--skip-server-warmup", "--enable-metrics"),
    # The guard judges a context before a forward: by its samples in an earlier one.
    *("--chunked-prefill-size", "768"),
]
PROMPT = Random(5).choices(range(256), k=1000)
SGLANG_LABELS = {"model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("telemetry")
    model = write_random_model(folder / "model", RandomModelSpec(layers=len(PATTERN), index_topk=64))
    # A short one: what lies below it are Unix sockets.
    with (
        tempfile.TemporaryDirectory(prefix="ic") as private,
        cpu_server(folder, model, *FLAGS, settings=SETTINGS, XDG_RUNTIME_DIR=private) as running,
    ):
        yield running


def generate(server: Server) -> None:
    post(
        server,
        "/generate",
        {"input_ids": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 3, "ignore_eos": True}},
    )


def scraped(server: Server) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Our samples by name, then by labels without SGLang's."""
    with urllib.request.urlopen(server.url + "/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(names.PREFIX):
                assert set(sample.labels) >= SGLANG_LABELS, sample
                own = tuple((name, value) for name, value in sample.labels.items() if name not in SGLANG_LABELS)
                found.setdefault(sample.name, {})[own] = sample.value
    return found


def described(server: Server) -> dict[str, Any]:
    return dict(server.indexcache_state()["telemetry"])


def series(name: str, labels: Any) -> str:
    return name + "".join(f" {label}={text}" for label, text in sorted(labels))


def in_metrics(server: Server) -> dict[str, float]:
    return {series(name, own): value for name, each in scraped(server).items() for own, value in each.items()}


def in_server_info(server: Server) -> dict[str, float]:
    metrics = described(server)["metrics"]
    return {series(name.partition("{")[0], re.findall(r'(\w+)="(.*?)"', name)): metrics[name] for name in metrics}


@dataclass(frozen=True)
class Story:
    """A fresh server, then prompts, a flush and a switch of the pattern, read by one subscriber."""

    fresh: dict[str, dict[tuple[tuple[str, str], ...], float]]
    values: dict[str, float]
    here: dict[str, float]
    state: dict[str, Any]
    told: list[Any]
    after: dict[str, dict[tuple[tuple[str, str], ...], float]]


@pytest.fixture(scope="module")
def story(server: Server) -> Story:
    """Told once, whichever test asks first."""
    fresh = scraped(server)
    stream = described(server)["events"]
    assert stream["address"].startswith("ipc://")
    assert Path(stream["address"].removeprefix("ipc://")).parent.stat().st_mode & 0o777 == 0o700
    with Subscriber(stream["address"], stream["replay_address"]) as subscriber:
        # The second one keeps a snapshot of the very prefill that the third one is.
        for _ in range(3):
            generate(server)
        # Counters come to /metrics within a second of the last step.
        while (values := in_metrics(server)) != (here := in_server_info(server)):
            time.sleep(0.25)
        state = server.indexcache_state()
        post(server, "/flush_cache")
        post(server, "/set_internal_state", {"server_args": wire.encode(Pattern("FFS"))})
        told: list[Envelope] = []
        while not any(isinstance(envelope.event, PatternChanged) for envelope in told):
            told = subscriber.replay() or []
    while sum((after := scraped(server))["sgl_indexcache_events_total"].values()) != len(told):
        time.sleep(0.25)
    return Story(fresh, values, here, state, told, after)


def test_what_is_scraped_is_the_catalogue_before_any_request(story: Story) -> None:
    found = story.fresh
    assert set(found) == {metric.scraped for metric in names.CATALOGUE}
    for metric in names.CATALOGUE:
        allowed = {label.name: label.values for label in metric.labels}
        for labels in found[metric.scraped]:
            assert {name for name, _ in labels} == set(allowed), metric.name
            assert all(not allowed[name] or text in allowed[name] for name, text in labels), metric.name
    assert found["sgl_indexcache_active"] == {(): 1}
    assert found["sgl_indexcache_pattern_info"] == {(("pattern", PATTERN),): 1}
    assert found["sgl_indexcache_layers"] == {(("layers", "full"),): 2, (("layers", "shared"),): 1}


def test_work_is_counted_the_same_in_both_places(story: Story) -> None:
    assert story.values == story.here


def test_what_is_told_in_events_is_numbered_and_counted(story: Story) -> None:
    assert [envelope.sequence for envelope in story.told] == list(range(1, len(story.told) + 1))
    assert story.after["sgl_indexcache_pattern_info"] == {(("pattern", PATTERN),): 0, (("pattern", "FFS"),): 1}
    assert sum(story.after["sgl_indexcache_events_total"].values()) == len(story.told)


def test_the_metrics_are_the_work(story: Story) -> None:
    values = story.values
    work, two_level, store = story.state["work"], story.state["two_level"], story.state["store"]
    shared = {"layers": "shared", "result": "skipped", "reason": "producer"}
    assert of(values, names.INDEXER_ROWS, **shared) == work["shared_rows"] > len(PROMPT)
    assert of(values, names.INDEXER_KEYS, **shared) == work["shared_keys"] > len(PROMPT) ** 2 / 2
    full = {
        reason: of(values, names.INDEXER_KEYS, layers="full", result=result, reason=reason)
        for reason, result in (
            *(("exact", "scored"), ("two_level", "scored")),
            *(("shortlist", "skipped"), ("snapshot", "skipped")),
        )
    }
    assert min(full.values()) > 0, full
    assert full["exact"] + full["two_level"] == two_level["keys_scored"]
    assert sum(full.values()) - work["reused_keys"] == two_level["keys_seen"]
    assert of(values, names.SELECTIONS_REUSED, source="snapshot") == work["reused_rows"] > 0
    assert of(values, names.SNAPSHOT_LOOKUPS, result="hit") == store["hits"] > 0
    assert of(values, names.SNAPSHOTS_KEPT) == store["kept"] > 0
    assert of(values, names.STORE_PAGES_VALID) >= len(PROMPT) // 64
    assert of(values, names.STORE_BYTES, part="snapshots") == store["bytes"] > 0
    for layer, recall in two_level["recall"].items():
        hit, missed = (of(values, names.RECALL_POSITIONS, layer=layer, result=result) for result in ("found", "missed"))
        assert hit / (hit + missed) == pytest.approx(recall, abs=1e-5)
    assert of(values, names.RECALL_FLOOR) == 1.0
    assert of(values, names.FALLBACKS, reason="recall") == sum(two_level["fallbacks"].values()) > 0
    assert of(values, names.KERNEL_INFO, phase="prefill", work="indexer", kernel="torch") == 1


def of(values: dict[str, float], metric: names.Metric, **labels: str) -> float:
    return values[series(metric.scraped, labels.items())]


def test_events_tell_what_happened(story: Story) -> None:
    found = [envelope.event for envelope in story.told]
    stored = {event.snapshot: event for event in found if isinstance(event, PrefixStored)}
    assert stored
    assert all(event.tokens % 64 == 0 and event.rows <= 64 for event in stored.values())
    reused = [event for event in found if isinstance(event, PrefixReused)]
    assert reused
    for event in reused:
        assert stored[event.snapshot].tokens == event.tokens == len(PROMPT) // 64 * 64
    gone = {event.snapshot for event in found if isinstance(event, PrefixEvicted)}
    assert gone == set(stored)  # the flush took them all
    assert [event for event in found if isinstance(event, PatternChanged)] == [
        PatternChanged(pattern="FFS", before=PATTERN)
    ]
    assert any(isinstance(event, Fallback) and event.layer in (0, 2) for event in found)


@pytest.mark.usefixtures("story")
def test_top_once_reads_it(server: Server) -> None:
    command = [sys.executable, "-m", "sgl_indexcache.cli", "top", "--once", "--json", "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["pattern"] == "FFS"
    assert seen["recall"]["mean"] is not None
    assert seen["latency"]["ttft_ms"]["p50"] > 0
    assert seen["events"]["total"] > 0
