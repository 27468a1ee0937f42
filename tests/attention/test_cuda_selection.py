"""The CUDA backend's indexers without CUDA: what is asked of our kernels, with the reference in their place."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sgl_indexcache.attention.choice import Chooser, Table
from sgl_indexcache.attention.cuda import IndexCacheCudaBackend
from sgl_indexcache.attention.cuda_selection import Call
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.settings import Kernels
from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.seams.cuda import indexer as cuda_indexer

# Those of conftest.py.
K, HEADS = 8, 2
PAGE = 64


def reference_score_select(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    max_length: int,
    initial: int,
    local: int,
    names: torch.Tensor | None,
    budget_bytes: int,
    out: torch.Tensor,
) -> torch.Tensor:
    """score_select from its documented contract: page-packed fp8 keys, then fp32 scales."""
    assert int(lengths.max()) <= max_length
    assert (initial, local, budget_bytes) == (0, 0, 1 << 20)
    pages = index_k.view(-1, PAGE * 132)
    keys = pages[:, : PAGE * 128].view(torch.float8_e4m3fn).float().view(-1, 128)
    keys = keys * pages[:, PAGE * 128 :].contiguous().view(torch.float32).view(-1, 1)
    for row in range(len(lengths)):
        table = page_table[request[row]].long()
        slot_of = (table.unsqueeze(1) * PAGE + torch.arange(PAGE)).flatten()
        length = int(lengths[row])
        scores = score(q[row : row + 1].float(), keys[slot_of[:length]], weights[row : row + 1])
        chosen = select(scores, lengths[row : row + 1], k)[0]
        out[row] = (
            torch.where(chosen < 0, -1, slot_of[chosen.clamp(min=0).long()].int()) if names is not None else chosen
        )
    return out


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, backend: IndexCacheCudaBackend) -> IndexCacheCudaBackend:
    module = ModuleType("sgl_indexcache.kernels.score_select.cuda")
    module.score_select = reference_score_select  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sgl_indexcache.kernels.score_select.cuda", module)
    backend.selection.chooser = Chooser(
        Kernels(indexer="ours"), 4, HEADS, "bf16", hopper=True, ours=True, table=Table("test", "test", (), ())
    )
    monkeypatch.setattr(runtime.current, "backend", backend)
    return backend


class FakeIndexer:
    index_topk, num_init_tokens, num_local_tokens = K, 0, 0

    def __init__(self, index_k: torch.Tensor) -> None:
        self.index_k = index_k

    def _get_index_k_read_buffer(self, pool: Any, layer_id: int) -> torch.Tensor:
        return self.index_k


def packed_keys(pages: int) -> torch.Tensor:
    keys = torch.randn(pages, PAGE * 128).to(torch.float8_e4m3fn).view(torch.uint8)
    scales = torch.rand(pages, PAGE).view(torch.uint8)
    return torch.cat([keys, scales], dim=1)


def metadata(method: TopkTransformMethod, lengths: list[int], request: list[int], **more: Any) -> Any:
    attention = SimpleNamespace(max_seq_len_k=200, page_size=PAGE, topk_indices_offset=more.get("offsets"))
    return SimpleNamespace(
        attn_metadata=attention,
        topk_transform_method=method,
        force_unfused_topk=more.get("unfused", False),
        get_page_table_64=lambda: torch.tensor([[3, 1, 0], [2, 4, 5]], dtype=torch.int32),
        get_seqlens_int32=lambda: torch.tensor(lengths, dtype=torch.int32),
        get_seqlens_expanded=lambda: torch.tensor(lengths, dtype=torch.int32),
        get_token_to_batch_idx=lambda: torch.tensor(request, dtype=torch.int32),
    )


@pytest.fixture
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.model_executor import forward_context

    monkeypatch.setattr(forward_context, "get_token_to_kv_pool", lambda: None)


def never(*arguments: Any) -> None:
    raise AssertionError("SGLang's kernel was called")


@pytest.mark.usefixtures("no_pool")
def test_prefill_selects_in_place_in_the_form_that_is_asked_for(kernel: IndexCacheCudaBackend) -> None:
    torch.manual_seed(0)
    indexer = FakeIndexer(packed_keys(6))
    queries, gates = torch.randn(5, HEADS, 128).to(torch.float8_e4m3fn), torch.rand(7, HEADS, 1)
    found = {}
    for form, method, more in (
        ("slots", TopkTransformMethod.PAGED, {}),
        ("offsets", TopkTransformMethod.RAGGED, {"offsets": torch.tensor([0, 0, 130], dtype=torch.int32)}),
        ("positions", TopkTransformMethod.PAGED, {"unfused": True}),
    ):
        result = torch.full((6, K), -7, dtype=torch.int32)
        asked = metadata(method, [100, 101, 5], [0, 0, 1], **more)
        out = cuda_indexer._ragged(never, indexer, False, None, 0, queries, gates, asked, result)
        assert out is result
        assert (out[3:] == -1).all(), "rows behind the requests' are padding"
        found[form] = out[:3]
    positions, page_of = found["positions"], torch.tensor([[3, 1, 0], [3, 1, 0], [2, 4, 5]])
    assert positions[2].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    some = positions.clamp(min=0).long()
    slots = page_of.gather(1, some // PAGE) * PAGE + some % PAGE
    assert torch.equal(found["slots"], torch.where(positions < 0, -1, slots).int())
    assert torch.equal(
        found["offsets"], torch.where(positions < 0, -1, positions + torch.tensor([[0], [0], [130]])).int()
    )


@pytest.mark.usefixtures("no_pool")
def test_decode_has_one_row_a_request(kernel: IndexCacheCudaBackend) -> None:
    torch.manual_seed(1)
    indexer = FakeIndexer(packed_keys(6))
    queries, gates = torch.randn(2, HEADS, 128).to(torch.float8_e4m3fn), torch.rand(2, HEADS, 1)
    mode = SimpleNamespace(forward_mode=ForwardMode.DECODE)
    asked = metadata(TopkTransformMethod.PAGED, [100, 1], [])
    out = cuda_indexer._paged(never, indexer, mode, 0, queries, gates, asked)
    assert out.shape == (2, K)
    assert set((out[0] // PAGE).tolist()) <= {3, 1}
    assert out[1].tolist() == [2 * PAGE] + [-1] * (K - 1)


@pytest.mark.usefixtures("no_pool")
@pytest.mark.parametrize("unfused", [False, True])
def test_decode_steps_of_enough_rows_have_lists(kernel: IndexCacheCudaBackend, unfused: bool) -> None:
    listed: list[tuple[int, list[int], bool]] = []

    def list_them(layer: int, inputs: Any, *, slots: bool, out: torch.Tensor) -> None:
        assert inputs.queries(slice(None))[1].shape == (len(inputs.lengths), HEADS)
        listed.append((layer, inputs.lengths.tolist(), slots))
        out.fill_(3)

    kernel.selection.decode_lists = SimpleNamespace(  # type: ignore[assignment]
        serves=lambda rows: rows > 1, select=list_them
    )
    indexer, mode = FakeIndexer(packed_keys(6)), SimpleNamespace(forward_mode=ForwardMode.DECODE)
    for rows in (1, 2):
        queries, gates = torch.randn(rows, HEADS, 128).to(torch.float8_e4m3fn), torch.rand(rows, HEADS, 1)
        asked = metadata(TopkTransformMethod.PAGED, [100, 70][:rows], [], unfused=unfused)
        out = cuda_indexer._paged(never, indexer, mode, 5, queries, gates, asked)
        assert bool((out == 3).all()) is (rows == 2)
        assert kernel.kernels["decode", "indexer"] == ("ours", "two_level")[rows - 1]
    assert listed == [(5, [100, 70], not unfused)]


def call(original: Any, layer: int = 0, out: torch.Tensor | None = None) -> Call:
    queries, gates = torch.zeros(3, HEADS, 128).to(torch.float8_e4m3fn), torch.zeros(3, HEADS)
    asked = metadata(TopkTransformMethod.PAGED, [100, 101, 5], [0, 0, 1])
    return Call(layer, FakeIndexer(packed_keys(6)), queries, gates, lambda: torch.zeros(1), asked, out, original)


class FakeTwoLevel:
    def __init__(self, calls: list[str], lists: bool, shortlists: bool) -> None:
        self.calls, self.lists, self._shortlists = calls, lists, shortlists

    def shortlists(self, layer: int) -> bool:
        return self._shortlists

    def select(self, layer: int, inputs: Any, terms: Any, out: torch.Tensor) -> None:
        self.calls.append(f"select {terms.form}")

    def watch(self, layer: int, inputs: Any) -> None:
        self.calls.append("watch")

    def count_exact(self) -> None:
        self.calls.append("count")


class FakeSnapshots:
    def __init__(self, calls: list[str], reads: bool) -> None:
        self.calls, self.reads, self.writes = calls, reads, not reads

    def read(self, layer: int, terms: Any, out: torch.Tensor) -> torch.Tensor:
        self.calls.append("read")
        return out

    def write(self, layer: int, terms: Any, selection: torch.Tensor) -> None:
        self.calls.append("write")


@pytest.mark.parametrize(("lists", "shortlists"), [(True, True), (True, False), (False, False), (None, None)])
@pytest.mark.parametrize("reads", [None, True, False], ids=["no-store", "reads", "writes"])
def test_every_way_of_a_prefill(
    lists: bool | None, shortlists: bool | None, reads: bool | None, backend: IndexCacheCudaBackend
) -> None:
    """Known selections are read whatever else is on; lists come before exact kernels; what was scored is written."""
    calls: list[str] = []
    if lists is not None:
        backend.selection.two_level = FakeTwoLevel(calls, lists, bool(shortlists))  # type: ignore[assignment]
    if reads is not None:
        backend.selection.snapshots = FakeSnapshots(calls, reads)  # type: ignore[assignment]

    def sglangs(out: torch.Tensor | None) -> torch.Tensor:
        calls.append("sglang")
        assert out is None
        return torch.ones(1)

    decision = backend.selection.decide_prefill(0, 3)
    selection = backend.select_prefill(call(sglangs))
    watched = ["watch"] if lists else []
    if reads:
        assert decision.way == "known"
        assert calls == [*watched, "read"]
    elif shortlists:
        assert decision.way == "listed"
        assert calls == ["select slots", *(["write"] if reads is False else [])]
        assert selection.shape == (3, K)
    else:
        assert decision.way == "sglang"
        counted = [] if lists is None else ["count"]
        assert calls == [*watched, *counted, "sglang", *(["write"] if reads is False else [])]
    if not reads:
        assert backend.kernels["prefill", "indexer"] == ("two_level" if shortlists else "sglang")


def test_a_decode_step_that_was_not_chosen_for_is_sglangs(backend: IndexCacheCudaBackend) -> None:
    assert backend.selection.decide_decode(3).way == "sglang"
    assert backend.select_decode(call(lambda out: torch.full((1,), 5))).item() == 5


def test_sglangs_paged_kernel_gets_as_many_heads_as_it_takes(backend: IndexCacheCudaBackend) -> None:
    queries, gates = torch.randn(3, 16, 128).to(torch.float8_e4m3fn), torch.rand(3, 16, 1)

    def original(indexer: Any, batch: Any, layer: int, q: torch.Tensor, w: torch.Tensor, metadata: Any) -> Any:
        return q, w

    q, w = cuda_indexer._paged(
        original, None, SimpleNamespace(forward_mode=ForwardMode.DECODE), 0, queries, gates, None
    )
    assert (q.shape, w.shape) == ((3, 32, 128), (3, 32, 1))
    assert torch.equal(q[:, :16].float(), queries.float())
    assert q[:, 16:].float().abs().max() == w[:, 16:].abs().max() == 0
    wide = torch.randn(1, 64, 128).to(torch.float8_e4m3fn)
    assert cuda_indexer.pad_heads(wide, gates)[0] is wide
