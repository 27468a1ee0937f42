"""FlashInfer's schedule of a forward, with a wrapper that only notes its calls."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sgl_indexcache.attention.flashinfer import FlashInferMla

K = 8


class FakeModule:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def plan(self, *arguments: Any) -> list[int]:
        self.calls.append(arguments)
        return [len(self.calls)]


class FakeWrapper:
    def __init__(self, workspace: Any, backend: str) -> None:
        self._float_workspace_buffer, self._backend = workspace, backend
        self._int_workspace_buffer = self._pin_memory_int_workspace_buffer = None
        self._cached_module = FakeModule()

    def plan(self, queries: Any, pages: Any, indices: Any, keys: Any, *rest: Any) -> None:
        self._plan_info = self._cached_module.plan(None, None, None, queries, pages, keys, *rest)

    def run(self, q: torch.Tensor, rope: torch.Tensor, latent: Any, kpe: Any, out: torch.Tensor) -> torch.Tensor:
        out.copy_(q * self._sm_scale + self._kv_indices_buf[0])
        return out

    _sm_scale = 0.0
    _kv_indices_buf = torch.zeros(1)


@pytest.fixture
def schedule(monkeypatch: pytest.MonkeyPatch) -> FlashInferMla:
    package, module = ModuleType("flashinfer"), ModuleType("flashinfer.mla")
    module.BatchMLAPagedAttentionWrapper = FakeWrapper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashinfer", package)
    monkeypatch.setitem(sys.modules, "flashinfer.mla", module)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    return FlashInferMla(4, K, 16, 8, torch.empty(1))


def test_a_plan_in_force_is_kept(schedule: FlashInferMla) -> None:
    calls = schedule._wrapper._cached_module.calls
    schedule.plan(torch.tensor([3, K], dtype=torch.int32))
    schedule.plan(torch.tensor([3, K], dtype=torch.int32))
    assert len(calls) == 1
    schedule.plan(torch.tensor([3, K, K], dtype=torch.int32))
    assert len(calls) == 2
    queries, pages, keys = calls[1][3:6]
    assert (queries.tolist(), pages.tolist(), keys.tolist()) == ([0, 1, 2, 3], [0, K, 2 * K, 3 * K], [3, K, K])
    assert schedule._wrapper._plan_info == [2]


def test_rows_behind_the_plan_are_zero(schedule: FlashInferMla) -> None:
    schedule.plan(torch.tensor([K, K], dtype=torch.int32))
    slots = torch.full((3, K), 5, dtype=torch.int32)
    out = schedule.run(torch.ones(3, 4, 16), torch.ones(3, 4, 8), torch.zeros(9, 1, 24), slots, 2.0)
    assert out[:2].unique().tolist() == [7.0]
    assert out[2].abs().max() == 0
    with pytest.raises(ValueError, match="contiguous columns"):
        schedule.run(torch.ones(3, 4, 16), torch.ones(3, 4, 8), torch.zeros(9, 1, 24), slots[:, ::2], 2.0)
