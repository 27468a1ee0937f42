"""`bench serve` on the CPU: one engine, measured once, then read from its folder."""

import json
import sys
from pathlib import Path

import pytest

from sgl_indexcache.bench import serve
from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.systems import systems
from sgl_indexcache.bench.workload import Workload
from sgl_indexcache.live.model import read_model
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.pattern import Pattern

WORKLOAD = Workload((256,), (64,), (2,), 256, colds=1, samples=2, steps=4, probe=128, vocabulary=320)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("models") / "tiny", RandomModelSpec(layers=3))


@pytest.mark.engine
def test_a_system_is_measured_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_model(model)
    engine = serve.engine_arguments(model, WORKLOAD, "cpu", "", "", False, {})
    (system,) = systems(["indexcache"], Pattern("FSS"), "cpu")
    found = serve.run_system(system, facts, WORKLOAD, engine, "cpu", tmp_path, 240.0)
    assert [figure["kind"] for figure in found["figures"]] == ["cold", "warm", "repeat", "decode"]
    assert [len(figure["samples"]) for figure in found["figures"]] == [1, 2, 2, 2]
    # A decode step is a difference of two times, below zero when the machine is busy.
    assert all(sample > 0 for figure in found["figures"][:3] for sample in figure["samples"])
    assert found["state"]["pattern"] == "FSS"
    assert len(found["probe"]["tokens"]) == 20
    assert str(model) not in json.dumps(found), "no machine's folder is in a result"

    monkeypatch.setattr(serve, "_child", lambda *arguments: pytest.fail("measured again"))
    assert serve.run_system(system, facts, WORKLOAD, engine, "cpu", tmp_path, 1.0) == found
    with pytest.raises(BenchError, match="another model, workload or engine"):
        serve.run_system(system, facts, WORKLOAD, {**engine, "dtype": "bfloat16"}, "cpu", tmp_path, 1.0)


def test_a_process_that_fails_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_child", lambda *arguments: 3)
    (system,) = systems(["limit"], Pattern("FSS"), "cpu")
    with pytest.raises(BenchError, match="the process of system limit ended with code 3"):
        serve.run_system(system, read_model(model), WORKLOAD, {}, "cpu", tmp_path, 1.0)


def test_a_process_that_hangs_is_ended() -> None:
    with pytest.raises(BenchError, match="raise --timeout"):
        serve._child([sys.executable, "-c", "import time; time.sleep(60)"], {}, 0.2)
