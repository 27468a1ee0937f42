"""A CUDA backend without CUDA."""

from typing import Any

import pytest
import torch
from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend

from sgl_indexcache.attention.choice import Chooser, Entry, Table
from sgl_indexcache.attention.cuda import IndexCacheCudaBackend
from sgl_indexcache.attention.cuda_selection import CudaSelection
from sgl_indexcache.settings import Kernels
from sgl_indexcache.telemetry.work import IndexerWork

K, HEADS = 8, 2
TABLE = Table("test", "test", (Entry("decode", 4, 1, {"fa3": 9, "flashinfer": 1, "flashmla": 20}),), ())


class FakeSchedule:
    def __init__(self) -> None:
        self.plans: list[list[int]] = []

    def plan(self, lengths: torch.Tensor) -> None:
        self.plans.append(lengths.tolist())

    def run(self, *arguments: Any) -> str:
        return "flashinfer"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> IndexCacheCudaBackend:
    """A backend without SGLang's constructor, over SGLang methods that only note their call."""
    made = object.__new__(IndexCacheCudaBackend)
    made.chooser = Chooser(Kernels(), 4, HEADS, "bf16", hopper=True, ours=False, table=TABLE)
    made.dsa_prefill_impl, made.dsa_decode_impl = "flashmla_sparse", "fa3"
    made._flags = {"prefill": "flashmla_sparse", "decode": "fa3"}
    made._schedules = {"prefill": FakeSchedule(), "decode": FakeSchedule()}  # type: ignore[dict-item]
    made._consumer, made._phase = "sglang", "decode"
    made._dense_prefill, made.use_mha = True, False
    made.dsa_index_topk, made.layers, made.shared_layers = K, 4, frozenset({1, 2, 3})
    made.work, made.kernels, made.device = IndexerWork(), {}, "cpu"
    made.selection = CudaSelection(
        made.chooser, 1 << 20, lambda rows: torch.arange(rows, dtype=torch.int32), made.kernels
    )
    monkeypatch.setattr(DeepseekSparseAttnBackend, "init_forward_metadata", lambda self, batch: None)
    monkeypatch.setattr(
        DeepseekSparseAttnBackend, "init_forward_metadata_out_graph", lambda self, batch, in_capture=False: None
    )
    monkeypatch.setattr(DeepseekSparseAttnBackend, "_forward_fa3", lambda self, **arguments: "fa3")
    return made
