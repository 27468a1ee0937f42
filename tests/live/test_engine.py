"""Search, quality and overlap on a real engine: a 6-layer model with random weights, top-k 64.

One server for everything; the last test stops it and starts a second one with a pattern of its own.
"""

import itertools
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sgl_indexcache.cli.app import app
from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.server import Server
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.pattern import Pattern, wire

from ..server import cpu_server

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ALL = [Pattern("F" + "".join(tail)) for tail in itertools.product("FS", repeat=5)]
FULL, SWITCHED = Pattern("FFFFFF"), Pattern("FSSFSS")
IDS = Random(7).choices(range(256), k=200)
JSON = {"Content-Type": "application/json"}
FLAGS = ["--max-running-requests", "4", "--skip-server-warmup"]


@dataclass
class Live:
    """A server, its client, and the folder of model and calibration file."""

    server: Server
    engine: Engine
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.jsonl"

    def cli(self, *arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--model", str(self.model), "--url", self.engine.url])
        if result.exception is not None:
            raise result.exception
        return result.stdout


def start(folder: Path, pattern: Pattern, *more: str) -> Server:
    return cpu_server(folder / str(pattern), folder / "model", "--pattern", str(pattern), *FLAGS, *more)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    write_random_model(folder / "model", RandomModelSpec(layers=6, index_topk=64))
    lines = [{"ids": Random(1).choices(range(256), k=130)}, {"text": "Selections repeat. " * 7}]
    (folder / "calibration.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with start(folder, FULL, "--enable-return-indexer-topk") as server:
        yield Live(server, Engine(server.url), folder)


@pytest.fixture(scope="module")
def switched(live: Live) -> np.ndarray:
    """Log-probabilities of IDS under the switched pattern."""
    live.engine.switch(SWITCHED)
    assert live.engine.pattern() == SWITCHED
    found = live.engine.score(IDS)
    live.engine.switch(FULL)
    return found


def cached(live: Live) -> int:
    body = {"input_ids": IDS, "sampling_params": {"temperature": 0, "max_new_tokens": 1}}
    return int(live.engine._ask("/generate", body)["meta_info"]["cached_tokens"])


def test_the_tree_is_emptied_by_a_switch(live: Live) -> None:
    cached(live)
    assert cached(live) >= 128
    live.engine.switch(SWITCHED)
    assert cached(live) == 0
    live.engine.switch(FULL)
    assert cached(live) == 0


def test_a_switch_changes_losses_and_switching_back_restores_them(live: Live, switched: np.ndarray) -> None:
    live.engine.switch(FULL)
    before = live.engine.score(IDS)
    assert np.abs(before - switched).max() > 1e-3
    # Positions within the first top-k see every key under any pattern.
    assert np.allclose(before[:60], switched[:60], atol=1e-4)
    live.engine.switch(SWITCHED)
    live.engine.switch(FULL)
    assert live.engine.score(IDS).tolist() == before.tolist()


def test_selections_come_from_their_producers(live: Live) -> None:
    live.engine.switch(SWITCHED)
    found = live.engine.selections(IDS, 6, 64, new_tokens=3)
    live.engine.switch(FULL)
    assert found.shape == (202, 6, 64)
    for layer in range(6):
        assert (found[:, layer] == found[:, SWITCHED.producer(layer)]).all()
    assert (found[:, 0] != found[:, 3]).any()


def test_a_busy_engine_refuses(live: Live) -> None:
    body = {"input_ids": IDS, "sampling_params": {"temperature": 0, "max_new_tokens": 2000, "ignore_eos": True}}
    request = urllib.request.Request(live.engine.url + "/generate", json.dumps({**body, "stream": True}).encode(), JSON)
    with urllib.request.urlopen(request) as answer:
        assert answer.readline().startswith(b"data:"), "its first token: the request runs"
        try:
            assert live.engine._ask("/set_internal_state", {"server_args": wire.encode(SWITCHED)}) == [False]
            assert live.engine.pattern() == FULL
        finally:
            abort = urllib.request.Request(live.engine.url + "/abort_request", b'{"abort_all": true}', JSON)
            urllib.request.urlopen(abort).close()
        assert b'"abort"' in answer.read(), "the request ended too early to tell"
    live.engine.switch(FULL)


def test_what_spells_no_pattern_of_this_model_is_refused(live: Live) -> None:
    for payload in (wire.encode(Pattern("FS")), {**wire.encode(FULL), "indexcache_full_0": 2}):
        assert live.engine._ask("/set_internal_state", {"server_args": payload}) == [False]
    assert live.engine.pattern() == FULL
    impatient = Engine(live.engine.url, patience=0.2)
    with pytest.raises(LiveError, match="refuses to switch"):
        impatient.switch(Pattern("FS"))


def test_greedy_against_every_pattern(live: Live, tmp_path: Path) -> None:
    """The whole way through the command line; then all 32 patterns, and the optimum of every budget."""
    live.engine.switch(SWITCHED)
    out = str(tmp_path)
    printed = live.cli("search", "--calibration", str(live.calibration), "--keep", "1", "--out", out)
    assert live.engine.pattern() == SWITCHED, "the pattern was not given back"
    report = json.loads((tmp_path / "search.json").read_text())
    assert report["pattern"] in printed
    from sgl_indexcache.live.model import read_model
    from sgl_indexcache.live.sequences import read_sequences
    from sgl_indexcache.search.evaluate import EngineWorker

    worker = EngineWorker(live.engine, read_sequences(live.calibration, read_model(live.model)))
    losses = {pattern: worker.evaluate(pattern).loss for pattern in ALL}
    live.engine.switch(FULL)
    for step in report["steps"]:
        assert losses[Pattern(step["pattern"])] == step["loss"], "a loss did not repeat"
        optimum = min(loss for pattern, loss in losses.items() if len(pattern.full_layers) == step["full_layers"])
        worst = max(loss for pattern, loss in losses.items() if len(pattern.full_layers) == step["full_layers"])
        assert optimum <= step["loss"] <= optimum + 0.5 * (worst - optimum)
    first = report["steps"][1]
    singles = {pattern: loss for pattern, loss in losses.items() if len(pattern.shared_layers) == 1}
    assert Pattern(first["pattern"]) == min(singles, key=lambda pattern: singles[pattern])
    # The other scorers share the journal: no pattern is measured twice.
    for scorer in ("similarity", "uniform"):
        live.cli("search", "--calibration", str(live.calibration), "--keep", "2", "--out", out, "--scorer", scorer)
        other = json.loads((tmp_path / "search.json").read_text())
        assert losses[Pattern(other["pattern"])] == other["loss"]
        assert other["settings"]["scorer"] == scorer
    assert other["pattern"] == "FFSSSS"


def test_overlap(live: Live, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("A fact stands here, and another one there. " * 30)
    arguments = ["--text", str(tmp_path / "t.txt"), "--lengths", "128,320", "--decode-steps", "4", "--samples", "1"]
    arguments += ["--no-plot"]
    live.cli("overlap", *arguments, "--out", str(tmp_path))
    report = json.loads((tmp_path / "overlap.json").read_text())
    assert [entry["length"] for entry in report["lengths"]] == [128, 320]
    for entry in report["lengths"]:
        matrix = np.array(entry["between_layers"])
        assert matrix.shape == (6, 6)
        assert np.allclose(np.diagonal(matrix), 1)
        assert len(entry["between_decode_steps"]["by_step"]) == 4
        assert 0 <= entry["between_decode_steps"]["mean"] <= 1
    assert report["lengths"][0]["between_queries"]["mean"][-1] is None
    plots = [tmp_path / name for name in ("layers.png", "curves.png")]
    assert not any(plot.exists() for plot in plots)
    result = CliRunner().invoke(app, ["plot", str(tmp_path / "overlap.json")])
    assert result.exit_code == 0, result.output
    for plot in plots:
        assert plot.read_bytes().startswith(b"\x89PNG")


def test_quality(live: Live, tmp_path: Path) -> None:
    needles = [{"ids": IDS, "answer": live.engine.generate(IDS, 3).ids}, {"text": "x" * 90, "answer": "no such text"}]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(needle) + "\n" for needle in needles))
    arguments = ["--text", str(live.calibration), "--needles", str(tmp_path / "n.jsonl"), "--budgets", "1/2"]
    arguments += ["--pattern", "all=FSSSSS", "--recall-tokens", "128", "--out", str(tmp_path)]
    printed = live.cli("quality", *arguments)
    rows: list[dict[str, Any]] = json.loads((tmp_path / "quality.json").read_text())["rows"]
    assert [row["pattern"] for row in rows] == ["FFFFFF", "FFSFSF", "FSSSSS"]
    assert rows[0]["needle_accuracy"] == 0.5
    assert rows[2]["recall_by_layer"][0] == 1.0, "layer 0 sees the same input under any pattern"
    assert all(share < 1 for share in rows[2]["recall_by_layer"][1:])
    assert "| 1/2 uniform | 4 |" in printed


def test_a_switched_pattern_is_what_a_server_started_with_it_computes(live: Live, switched: np.ndarray) -> None:
    live.server.stop()
    with start(live.folder, SWITCHED) as server:
        engine = Engine(server.url)
        assert engine.pattern() == SWITCHED
        assert engine.score(IDS).tolist() == switched.tolist()
        with pytest.raises(LiveError, match="--enable-return-indexer-topk"):
            engine.selections(IDS, 6, 64)
    with pytest.raises(LiveError, match="does not answer"):
        engine.info()
