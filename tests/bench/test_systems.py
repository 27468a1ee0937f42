"""What is compared with what, and in which environment."""

import json

import pytest

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.systems import systems
from sgl_indexcache.bench.workload import Workload
from sgl_indexcache.pattern import Pattern

PATTERN = Pattern("FFSS")


def test_four_systems_on_cuda() -> None:
    found = systems(["standard", "reuse", "indexcache", "limit"], PATTERN, "cuda")
    assert [str(system.pattern) for system in found] == ["FFFF", "FFSS", "FFSS", "FSSS"]
    assert [system.plain for system in found] == [True, True, False, False]
    assert json.loads(found[1].engine()["json_model_override_args"]) == {"index_topk_pattern": "FFSS"}
    assert found[1].engine()["attention_backend"] == "dsa"
    assert found[2].engine() == {"attention_backend": "indexcache"}


def test_settings_reach_our_systems_alone() -> None:
    standard, ours = systems(["standard", "indexcache"], PATTERN, "cuda")
    inherited = {"PATH": "/bin", "SGL_INDEXCACHE_KERNELS__DECODE": "fa3", "SGL_INDEXCACHE_PATTERN": "1/2"}
    assert standard.environment(inherited, "cuda") == {
        "PATH": "/bin",
        "SGLANG_USE_CPU_ENGINE": "0",
        "SGL_INDEXCACHE_ENABLED": "false",
    }
    assert ours.environment(inherited, "cuda") == {
        "PATH": "/bin",
        "SGLANG_USE_CPU_ENGINE": "0",
        "SGL_INDEXCACHE_KERNELS__DECODE": "fa3",
        "SGL_INDEXCACHE_PATTERN": "FFSS",
    }


def test_without_cuda_every_system_is_ours() -> None:
    assert [system.plain for system in systems(["standard", "indexcache", "limit"], PATTERN, "cpu")] == [False] * 3
    with pytest.raises(BenchError, match="reuse needs CUDA"):
        systems(["reuse"], PATTERN, "cpu")


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(BenchError, match="'dsa' is unknown: choose among standard, reuse, indexcache, limit"):
        systems(["dsa"], PATTERN, "cuda")


def workload(**changes: object) -> Workload:
    fields = {"lengths": (100, 700), "turns": (64,), "batches": (1, 4), "prefix": 700, "colds": 1, "samples": 2}
    return Workload.of({**fields, "steps": 8, "probe": 256, "vocabulary": 320, **changes})


def test_a_workload_survives_json() -> None:
    assert Workload.of(json.loads(json.dumps(workload().described()))) == workload()


def test_the_context_holds_every_sequence() -> None:
    assert workload().context == 832
    assert workload(prefix=3000).context >= 3000 + 64 + 4 + 8
    assert workload(prefix=3000, batches=()).context == 832
    assert workload(probe=5000).context >= 5001


def test_tokens_depend_on_their_key_alone() -> None:
    one = workload()
    assert one.tokens(50, 1, 2) == workload(samples=9).tokens(50, 1, 2)
    assert one.tokens(50, 1, 2) != one.tokens(50, 1, 3)
    assert min(one.tokens(500, 1)) >= 10
    assert max(one.tokens(500, 1)) < 320
