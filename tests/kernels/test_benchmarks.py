"""The benchmarks' rule: what is wrong is not timed, and what is absent is not wrong."""

from typing import Any

import pytest
import torch

from sgl_indexcache.kernels.benchmarks import beside_torch
from sgl_indexcache.kernels.benchmarks.beside_torch import Sides
from sgl_indexcache.kernels.benchmarks.run import Call, Candidates


def missing() -> Call:
    raise ImportError("no such kernel")


def broken(call: Call) -> str | None:
    raise RuntimeError("launch failed")


def test_only_what_is_right_is_timed() -> None:
    def call(layer: int) -> int:
        return layer

    candidates = Candidates()
    candidates.add("right", lambda: call, lambda call: None)
    candidates.add("wrong", lambda: call, lambda call: "row 0")
    candidates.add("broken", lambda: call, broken)
    candidates.add("missing", missing, lambda call: None)
    assert candidates.right == {"right": call}
    assert candidates.failed == {"wrong": "row 0", "broken": "RuntimeError: launch failed"}
    assert candidates.reasons["missing"] == "absent: no such kernel"


@pytest.mark.parametrize("error", [3.1e-3, float("nan"), float("inf")])
def test_a_kernel_twice_as_wrong_as_torch_has_no_time(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = torch.zeros(1), torch.ones(1)

    def timed(*arguments: Any) -> tuple[float, float]:
        return 1.0, 0.0

    monkeypatch.setattr(beside_torch, "_timed", timed)

    def sides(result: torch.Tensor) -> Sides:
        return Sides({"rows": 1}, lambda: result, lambda: right, lambda x: error if x is wrong else 1e-3)

    with pytest.raises(SystemExit, match="the kernel is wrong"):
        beside_torch.measure(sides(wrong), 1)
    assert beside_torch.measure(sides(right), 1)["triton_ms"] == 1.0
