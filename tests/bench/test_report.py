"""From results to ratios, and when there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache.bench import plot, report, serve
from sgl_indexcache.bench.errors import BenchError

PROBE = {"tokens": list(range(20)), "log_probs": [-1.0 - 0.1 * i for i in range(20)]}


def result(system: str, cold: list[float], **changes: Any) -> dict[str, Any]:
    figures = [
        {"kind": "cold", "length": 1024, "new": 1024, "batch": 1, "samples": cold},
        {"kind": "decode", "length": 1024, "new": 0, "batch": 4, "samples": [10.0]},
        {"kind": "warm", "length": 1024, "new": 64, "batch": 1, "samples": [5.0, 6.0]},
        {"kind": "repeat", "length": 1024, "new": 0, "batch": 1, "samples": [2.0]},
    ]
    same = {"schema": serve.SCHEMA, "workload": {}, "engine": {}, "settings": {}, "versions": {"torch": "2"}}
    more = {"machine": {"device": "cpu", "cores": 2}, "model": {"name": "tiny"}, "pattern": "FS", "start_s": 1.0}
    whole = {**same, **more, "system": system, "complete": True, "probe": PROBE, "figures": figures}
    return {**whole, **changes}


def put(folder: Path, *results: dict[str, Any]) -> Path:
    for one in results:
        serve.file_of(folder, one["system"]).write_text(json.dumps(one))
    return folder


def test_ratios_are_of_medians_with_the_extremes_of_samples(tmp_path: Path) -> None:
    put(tmp_path, result("indexcache", [10.0, 20.0, 30.0]), result("standard", [60.0, 40.0]))
    written = report.write(tmp_path)
    cold = written["figures"][0]
    assert cold["ms"] == {"standard": 50.0, "indexcache": 20.0}
    assert cold["ratios"]["indexcache"] == {"median": 2.5, "low": 40 / 30, "high": 6.0}
    assert json.loads((tmp_path / "serve.json").read_text()) == written
    assert written["refused"] is None


def test_a_system_that_answers_otherwise_has_no_ratio(tmp_path: Path) -> None:
    wrong = {**PROBE, "log_probs": [value - 0.5 for value in PROBE["log_probs"]]}
    put(tmp_path, result("standard", [50.0]), result("reuse", [40.0]), result("indexcache", [20.0], probe=wrong))
    written = report.write(tmp_path)
    assert written["refused"] == "log-probabilities differ by 0.500"
    assert set(written["figures"][0]["ratios"]) == {"reuse"}
    others = {**PROBE, "tokens": list(range(100, 120))}
    assert report.agreement(PROBE, others) == "only 0 of the 20 most likely tokens are the same"
    assert report.agreement(PROBE, PROBE) is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"workload": {"lengths": [1]}}, "workload"),
        ({"versions": {"torch": "3"}}, "versions"),
        ({"machine": {"device": "NVIDIA H100"}}, "device"),
    ],
)
def test_different_runs_are_not_compared(changes: dict[str, Any], part: str, tmp_path: Path) -> None:
    put(tmp_path, result("standard", [1.0]), result("indexcache", [1.0], **changes))
    with pytest.raises(BenchError, match=f"differ in their {part}"):
        report.read(tmp_path)


def test_an_interrupted_system_is_not_reported(tmp_path: Path) -> None:
    put(tmp_path, result("standard", [1.0], complete=False))
    with pytest.raises(BenchError, match="holds no complete result"):
        report.write(tmp_path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    put(tmp_path, result("standard", [1.0], schema="x/1"))
    with pytest.raises(BenchError, match="is not of schema"):
        report.read(tmp_path)


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    put(tmp_path, result("standard", [60.0]), result("indexcache", [20.0]))
    drawn = plot.draw(tmp_path, report.write(tmp_path))
    assert [path.name for path in drawn] == ["cold.png", "warm.png", "repeat.png", "decode.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
