"""The kernel benchmark: summaries, refusal of wrong kernels, and the table that it fills."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.attention import choice
from sgl_indexcache.bench import consumers, kernels
from sgl_indexcache.bench.errors import BenchError

RAW = {
    "phase": "decode",
    "heads": 32,
    "rows": 8,
    "keys": 0,
    "us": {"fa3": [19.0, 20.0, 21.0], "flashinfer": [10.0], "flashmla": [1.0]},
    "wrong": {"flashmla": "relative error 3.0e-01"},
}


def test_a_wrong_kernel_has_no_ratio_and_no_place_in_the_table() -> None:
    entry = kernels.summarized("consumers", RAW)
    assert entry["ratios"] == {"flashinfer": 2.0}
    assert entry["us"]["fa3"] == {"median": 20.0, "low": 19.0, "high": 21.0}
    table = kernels.table({"measured_on": {"device": "NVIDIA H200"}, "versions": {}, "entries": [entry]})
    assert table["consumers"] == [
        {"phase": "decode", "heads": 32, "rows": 8, "keys": 0, "us": {"fa3": 20.0, "flashinfer": 10.0}}
    ]


def test_without_a_right_peer_there_is_no_ratio() -> None:
    entry = kernels.summarized("consumers", {**RAW, "wrong": {"fa3": "not installed"}})
    assert entry["ratios"] == {}
    report = {"measured_on": {"device": "x"}, "versions": {}, "entries": [entry]}
    with pytest.raises(BenchError, match="run on a GPU"):
        kernels.fill(Path("never-written.json"), report)


def test_a_filled_table_is_read_back_and_keeps_what_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = choice.Table("NVIDIA H200", "x", (), (choice.Entry("decode", 32, 8, {"sglang": 2, "ours": 1}, 4096),))
    monkeypatch.setattr(choice, "table", lambda: shipped)
    path = tmp_path / "choices.json"
    entry = kernels.summarized("consumers", RAW)
    kernels.fill(path, {"measured_on": {"device": "NVIDIA H200"}, "versions": {}, "entries": [entry]})
    read = choice.Table.of(json.loads(path.read_text()))
    assert read.consumer_times("decode", 32, 8) == {"fa3": 20.0, "flashinfer": 10.0}
    assert read.indexers == shipped.indexers


def test_kinds() -> None:
    assert kernels.kinds(None) == ["consumers", "indexers"]
    assert kernels.kinds("indexers") == ["indexers"]
    with pytest.raises(BenchError, match="'scripts' is no kind of kernel: choose among consumers, indexers"):
        kernels.kinds("consumers,scripts")


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure for minutes")
def test_the_indexers_measure_nothing_without_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernels.measure("indexers", lambda entry: None) == []
    assert "nothing to measure without CUDA" in capsys.readouterr().err


def test_files_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kernels" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("consumers.py", "score_select.py", "problem.py"):
        (folder / name).write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(consumers, "measure", lambda: iter([]))
    assert [kernels.measure(kind, lambda entry: None) for kind in kernels.kinds(None)] == [[], []]


def test_the_reduced_form_runs_and_checks() -> None:
    entries = list(consumers.measure())
    assert [(entry["phase"], entry["rows"]) for entry in entries] == [("decode", 1), ("decode", 4), ("prefill", 32)]
    assert all(entry["wrong"] == {} for entry in entries)
    assert all(len(entry["us"]["torch"]) == 5 for entry in entries)


def test_a_wrong_consumer_is_found() -> None:
    problem = consumers.problem(4, 4, 0.0, "cpu", 256, 32, 2)
    right = consumers.torch_gather(problem)
    assert consumers.check(problem, right) is None
    assert "relative error" in consumers.check(problem, lambda layer: right(1 - layer))
    nothing: Any = right(0).new_full((4, 4, 512), float("nan"))
    assert consumers.check(problem, lambda layer: nothing) == "relative error nan"
    for row in problem.slots:
        assert len(set(row.tolist())) == 32
