"""Kernel times of a decode step, from traces."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sgl_indexcache.bench.profile import occupied, profile, summary, times_of
from sgl_indexcache.bench.workload import Workload
from sgl_indexcache.cli.app import app

TRACE = {
    "traceEvents": [
        {"cat": "kernel", "name": "score", "ts": 100.0, "dur": 10.0},
        {"cat": "kernel", "name": "score", "ts": 108.0, "dur": 14.0},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 130.0, "dur": 1.0},
        {"cat": "cpu_op", "name": "score", "ts": 0.0, "dur": 99.0},
        {"name": "a mark"},
    ]
}


def test_only_the_device_is_counted() -> None:
    assert times_of(TRACE) == {"score": (24.0, 2), "copy": (1.0, 1)}


def test_what_overlaps_occupies_the_device_once() -> None:
    assert occupied(TRACE) == {"busy_us": 23.0, "span_us": 31.0}
    assert occupied({"traceEvents": [{"name": "a mark"}]}) == {"busy_us": 0.0, "span_us": 0.0}


def test_one_step_of_the_difference() -> None:
    rows = summary({"score": (24.0, 2), "copy": (1.0, 1)}, {"score": (4.0, 1)}, 2)
    assert rows[0] == {"kernel": "everything", "us": 10.5, "calls": 1.0}
    assert [row["kernel"] for row in rows[1:]] == ["score", "copy"]
    assert rows[1]["us"] == 10.0


class Engine:
    """Writes a trace with one kernel a generated token."""

    def __init__(self) -> None:
        self.tokens = 0
        self.folder: Path | None = None

    def start_profile(self, output_dir: str, **_: Any) -> None:
        self.folder, self.tokens = Path(output_dir), 0

    def generate(self, sampling_params: dict[str, Any], **_: Any) -> None:
        self.tokens += sampling_params["max_new_tokens"]

    def stop_profile(self) -> None:
        assert self.folder is not None
        events = [{"cat": "kernel", "name": "step", "ts": 7.0 * nth, "dur": 5.0} for nth in range(self.tokens)]
        (self.folder / "0-TP-0.trace.json.gz").write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))


def test_profile_subtracts_the_prompt() -> None:
    workload = Workload((128,), (64,), (1, 4), 128, 1, 1, 8, 128, 1000)
    found = profile(Engine(), workload)
    assert found["decode"][0] == {"kernel": "everything", "us": 5.0, "calls": 1.0}
    assert found["warm"][0]["calls"] == 1.0
    assert found["warm_device"] == {"busy_us": 5.0, "span_us": 5.0}


def test_without_cuda_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(app, ["bench", "serve", "--model", str(tmp_path), "--out", str(tmp_path), "--profile"])
    assert result.exit_code != 0
    assert "--profile needs CUDA" in str(result.exception)
    assert not list(tmp_path.iterdir())
