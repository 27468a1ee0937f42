"""The quality table over an engine of plain arithmetic: figures, resumption, files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgl_indexcache.live.engine import Generation
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.needles import Needle, Needles
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.quality import table
from sgl_indexcache.quality.errors import QualityError
from sgl_indexcache.quality.judge import Row, Tasks, edges, header, judge, rows_of
from sgl_indexcache.search.journal import Journal

FULL, HALF = Pattern("FFFFFF"), Pattern("FSFSFS")


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    return ModelFacts(tmp_path, "m", layers=6, top_k=16, vocabulary=320, context=64, fingerprint="m")


class FakeEngine:
    """Loss grows with the number of Shared layers and falls with the position; a Shared layer selects half as much."""

    def __init__(self) -> None:
        self.pattern, self.calls = FULL, 0

    def switch(self, pattern: Pattern) -> None:
        self.pattern = pattern

    def score(self, ids: Sequence[int]) -> np.ndarray:
        self.calls += 1
        position = np.arange(1, len(ids))
        return -(1 + 0.1 * len(self.pattern.shared_layers) + (position < 16))

    def generate(self, ids: Sequence[int], new_tokens: int) -> Generation:
        self.calls += 1
        return Generation([7] * new_tokens, "" if self.pattern == HALF and ids[0] else "yes, indeed")

    def selections(self, ids: Sequence[int], layers: int, top_k: int, new_tokens: int = 1) -> np.ndarray:
        self.calls += 1
        found = np.zeros((len(ids), layers, top_k), dtype=np.int32)
        found[:] = np.arange(top_k)
        for layer in self.pattern.shared_layers:
            found[:, layer, : top_k // 2] = -1
        return found


@pytest.fixture
def tasks() -> Tasks:
    needles = Needles("n", [Needle([0] * 10, "yes", 3), Needle([1] * 2000, "yes", 3), Needle([1], [7, 7], 2)])
    held_out = Sequences("h", (tuple(range(40)), tuple(range(64))))
    return Tasks(held_out, needles, recall_tokens=50, recall_samples=1, recall_rows=8)


ROWS = [Row("all Full", "full", FULL), Row("1/2 uniform", "uniform", HALF), Row("again", "given", HALF)]


def run(model: ModelFacts, tasks: Tasks, out: Path, engine: Any) -> list[dict[str, Any]]:
    with Journal(out / "journal.jsonl", header(model, tasks, {})) as journal:
        judgements = judge(model, ROWS, tasks, [engine], journal)
    table.write(out, model, judgements, tasks, {})
    return list(json.loads((out / "quality.json").read_text())["rows"])


def test_edges() -> None:
    assert edges(16, 64) == [16, 32, 64]
    assert edges(16, 40) == [16, 32, 40]


def test_figures(model: ModelFacts, tasks: Tasks, tmp_path: Path) -> None:
    full, half, again = run(model, tasks, tmp_path, FakeEngine())
    tokens, early = 39 + 63, 2 * 15  # tokens with a prediction; those at positions 1..15 lose one nat more
    assert full["loss"] == pytest.approx(1 + early / tokens)
    assert half["loss"] == pytest.approx(1.3 + early / tokens)
    assert half["increase"] == pytest.approx(half["loss"] / full["loss"] - 1)
    assert half["loss_by_position"] == pytest.approx({"1-16": 2.3, "17-32": 1.3, "33-64": 1.3})
    assert full["needle_accuracy"] == 1.0
    assert half["needle_accuracy"] == pytest.approx(2 / 3)
    assert half["needles_by_length"] == {"1024": 1.0, "2048": 0.0}
    assert full["recall"] == 1.0
    assert full["recall_shared_layers"] is None
    assert half["recall_shared_layers"] == pytest.approx(0.5)
    assert half["recall_by_layer"] == [1.0, 0.5] * 3
    assert {**again, "name": "", "kind": ""} == {**half, "name": "", "kind": ""}
    text = (tmp_path / "quality.md").read_text()
    assert text.splitlines()[0].startswith("| pattern | Full layers | loss | increase | loss at 1-16 |")
    assert "| 1/2 uniform | 3 |" in text
    assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_measures_nothing(model: ModelFacts, tasks: Tasks, tmp_path: Path) -> None:
    first, second = FakeEngine(), FakeEngine()
    rows = run(model, tasks, tmp_path, first)
    assert first.calls == 1 + 2 * tasks.units() - 1  # the reference, and recall of all Full needs no forward
    assert run(model, tasks, tmp_path, second) == rows
    assert second.calls == 0


def test_an_interrupted_run_goes_on(model: ModelFacts, tasks: Tasks, tmp_path: Path) -> None:
    rows = run(model, tasks, tmp_path / "whole", FakeEngine())
    run(model, tasks, tmp_path / "cut", FakeEngine())
    journal = tmp_path / "cut" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
    assert run(model, tasks, tmp_path / "cut", FakeEngine()) == rows


def test_rows(model: ModelFacts, tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    budgets = {"3": {"pattern": "FSSFSF", "loss": 1.0}, "4": {"pattern": "FSFFSF", "loss": 1.0}}
    path.write_text(json.dumps({"model": {"fingerprint": model.fingerprint}, "budgets": budgets}))
    assert [(row.name, str(row.pattern)) for row in rows_of(model, path, ["1/2", "4"])] == [
        ("DSA (all Full)", "FFFFFF"),
        ("1/2 uniform", "FFSFSF"),
        ("1/2 searched", "FSSFSF"),
        ("4 searched", "FSFFSF"),
    ]
    assert [row.name for row in rows_of(model, None, ["1/2"])] == ["DSA (all Full)", "1/2 uniform"]
    with pytest.raises(QualityError, match=r"no pattern of 2 Full layers \(1/4\)"):
        rows_of(model, path, ["1/4"])
    path.write_text(json.dumps({"model": {"fingerprint": "x"}, "budgets": {}}))
    with pytest.raises(QualityError, match="searched on another model"):
        rows_of(model, path, ["1/2"])
    path.write_text("[]")
    with pytest.raises(QualityError, match=r"is no search\.json"):
        rows_of(model, path, ["1/2"])
