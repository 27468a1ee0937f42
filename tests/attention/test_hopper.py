"""The CUDA backend without CUDA: what it chooses, plans, counts and hands to its kernels, with fakes below it."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod
from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sgl_indexcache.attention.choice import Chooser, Entry, Table
from sgl_indexcache.attention.hopper import IndexCacheHopperBackend, _fa3_takes
from sgl_indexcache.attention.row_lengths import RowLengths
from sgl_indexcache.kernels.score import score
from sgl_indexcache.kernels.select import select
from sgl_indexcache.settings import Kernels
from sgl_indexcache.sglang_port import cuda_indexer, runtime
from sgl_indexcache.telemetry.work import IndexerWork

K, HEADS, PAGE = 8, 2, 64
TABLE = Table("test", "test", (Entry("decode", 4, 1, {"fa3": 9, "flashinfer": 1, "flashmla": 20}),), ())


class FakeSchedule:
    def __init__(self) -> None:
        self.plans: list[list[int]] = []

    def plan(self, lengths: torch.Tensor) -> None:
        self.plans.append(lengths.tolist())

    def run(self, *arguments: Any) -> str:
        return "flashinfer"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> IndexCacheHopperBackend:
    """A backend without SGLang's constructor, over SGLang methods that only note their call."""
    made = object.__new__(IndexCacheHopperBackend)
    made.chooser = Chooser(Kernels(), 4, HEADS, "bf16", hopper=True, ours=False, table=TABLE)
    made.dsa_prefill_impl, made.dsa_decode_impl = "flashmla_sparse", "fa3"
    made._flags = {"prefill": "flashmla_sparse", "decode": "fa3"}
    made._schedules = {"prefill": FakeSchedule(), "decode": FakeSchedule()}  # type: ignore[dict-item]
    made._consumer, made._phase, made._longest = "sglang", "decode", None
    made._dense_prefill, made.use_mha = True, False
    made.dsa_index_topk, made.layers, made.shared_layers = K, 4, frozenset({1, 2, 3})
    made.work, made.budget_bytes, made.kernels = IndexerWork(), 1 << 20, {}
    made._arange_buf, made.device = torch.arange(64, dtype=torch.int32), "cpu"
    monkeypatch.setattr(DeepseekSparseAttnBackend, "init_forward_metadata", lambda self, batch: None)
    monkeypatch.setattr(
        DeepseekSparseAttnBackend, "init_forward_metadata_out_graph", lambda self, batch, in_capture=False: None
    )
    monkeypatch.setattr(DeepseekSparseAttnBackend, "_forward_fa3", lambda self, **arguments: "fa3")
    return made


def batch(mode: ForwardMode, lengths: list[int], new: list[int] | None = None, **more: Any) -> Any:
    host = torch.tensor(lengths)
    fields = {"seq_lens": host, "seq_lens_cpu": host, "extend_seq_lens_cpu": new, "rids": ["x"] * len(lengths)}
    return SimpleNamespace(forward_mode=mode, **{**fields, **more})


def attend(backend: IndexCacheHopperBackend) -> str:
    return backend._forward_fa3(q_nope=None, q_rope=None, kv_cache=None, page_table=None, sm_scale=1.0)  # type: ignore[no-any-return]


def test_decode_takes_the_measured_winner_and_plans_it_once_a_forward(backend: IndexCacheHopperBackend) -> None:
    backend.init_forward_metadata(batch(ForwardMode.DECODE, [5, 100]))
    assert backend._schedules["decode"].plans == [[5, K]]  # type: ignore[attr-defined]
    assert backend.dsa_decode_impl == "fa3", "SGLang's FA3 branch leads to FlashInfer"
    assert attend(backend) == "flashinfer"


def test_prefill_that_was_not_measured_is_sglangs(backend: IndexCacheHopperBackend) -> None:
    backend.init_forward_metadata(batch(ForwardMode.DECODE, [5]))
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [20, 3], [4, 3]))
    assert backend.dsa_prefill_impl == "flashmla_sparse"
    assert attend(backend) == "fa3", "a forward before must leave nothing behind"


@pytest.mark.parametrize(("name", "sglangs"), [("flashinfer", "fa3"), ("fa3", "fa3"), ("flashmla", "flashmla_sparse")])
def test_a_consumer_that_was_asked_for(backend: IndexCacheHopperBackend, name: Any, sglangs: str) -> None:
    backend.chooser = Chooser(Kernels(prefill=name), 4, HEADS, "bf16", hopper=True, ours=False, table=TABLE)
    backend.init_forward_metadata(batch(ForwardMode.MIXED, [20, 30], [4, 1]))
    assert backend.dsa_prefill_impl == sglangs
    assert attend(backend) == ("flashinfer" if name == "flashinfer" else "fa3")
    plans = backend._schedules["prefill"].plans  # type: ignore[attr-defined]
    assert plans == ([[K] * 5] if name == "flashinfer" else [])


def test_a_graph_is_planned_at_capture_and_at_replay_with_its_padding(backend: IndexCacheHopperBackend) -> None:
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, [1, 1]), in_capture=True)
    assert backend.work.snapshot()["full_rows"] == 0, "nobody asked for a capture's rows"
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, [7, 50, 1, 1], num_padding=2))
    assert backend._schedules["decode"].plans == [[1, 1], [7, K, 1, 1]]  # type: ignore[attr-defined]
    assert (backend.work.full_rows, backend.work.full_keys) == (2, 57)
    assert (backend.work.shared_rows, backend.work.shared_keys) == (6, 171)


def test_work_of_prefill_is_counted_where_it_is_scored(backend: IndexCacheHopperBackend) -> None:
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [K], [K]))
    assert backend.work.full_rows == 0, "every key is selected without a score"
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [12], [12], rids=None))
    assert backend.work.full_rows == 0, "a warm-up"
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [12], [2]))
    assert (backend.work.full_rows, backend.work.full_keys) == (2, 11 + 12)


def test_dense_prefill_only_where_fa3_has_kernels(
    backend: IndexCacheHopperBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dense(self: Any, forward_batch: Any = None) -> None:
        self.use_mha = True

    monkeypatch.setattr(DeepseekSparseAttnBackend, "set_dsa_prefill_impl", dense)
    for takes in (True, False):
        backend._dense_prefill = takes
        backend.set_dsa_prefill_impl(None)
        assert backend.use_mha is takes
    assert _fa3_takes(192, 128)
    assert _fa3_takes(256, 256)
    assert not _fa3_takes(80, 16)


class FakeTwoLevel:
    """Notes what the backend tells it."""

    def __init__(self) -> None:
        self.taken: list[tuple[list[int], list[int]]] = []
        self.begun: list[Any] = []
        self.pages = SimpleNamespace(take=lambda at, slots: self.taken.append((at.tolist(), slots.tolist())))
        self.counted: list[list[int]] = []
        self.work = None
        self.decode = SimpleNamespace(
            serves=lambda rows: rows > 1, count=lambda lengths, work: self.counted.append(lengths.tolist())
        )

    def clear(self) -> None:
        self.begun.append(None)

    def begin(self, lengths: list[int], new: list[int], page_table: Any, *, asked: bool) -> None:
        self.begun.append((lengths, new, asked))


def test_two_level_scoring_is_told_of_every_page_that_begins(backend: IndexCacheHopperBackend) -> None:
    told = FakeTwoLevel()
    backend.two_level = told  # type: ignore[assignment]
    backend.forward_metadata = SimpleNamespace(real_page_table=None)
    positions, slots = torch.tensor([126, 127, 128, 0, 0]), torch.tensor([190, 191, 640, 0, 0])
    prefill = batch(ForwardMode.EXTEND, [129], [3], positions=positions, out_cache_loc=slots)
    backend.init_forward_metadata(prefill)
    assert told.taken == [([126, 127, 128], [190, 191, 640])], "rows of padding come last and are left out"
    assert told.begun == [None, ([129], [3], True)]
    backend.use_mha = True
    backend.init_forward_metadata(prefill)
    assert told.begun[2:] == [None], "dense prefill selects nothing, but takes pages"
    assert len(told.taken) == 2
    backend.use_mha = False
    for graph in (False, True):
        call = backend.init_forward_metadata_out_graph if graph else backend.init_forward_metadata
        call(batch(ForwardMode.DECODE, [130, 64], out_cache_loc=torch.tensor([641, 127]), num_padding=0))
        assert len(told.taken) == 2 + graph, "no page begins"
        call(batch(ForwardMode.DECODE, [131, 65], out_cache_loc=torch.tensor([642, 704]), num_padding=0))
        assert told.taken[-1] == ([130, 64], [642, 704])
    assert told.begun[3:] == [None] * 4
    assert told.counted == [[130, 64], [131, 65]] * 2
    call(batch(ForwardMode.DECODE, [7, 9, 1], out_cache_loc=torch.tensor([1, 1, 0]), num_padding=1))
    assert told.counted[4:] == [[7, 9]], "padding is not counted"
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, [1]), in_capture=True)
    assert len(told.taken) == 5, "a capture writes nothing"


@pytest.mark.parametrize(("lists", "shortlists"), [(True, True), (True, False), (False, False)])
def test_a_prefill_is_shortlisted_watched_or_left_alone(
    lists: bool, shortlists: bool, backend: IndexCacheHopperBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    backend.two_level = SimpleNamespace(  # type: ignore[assignment]
        lists=lists,
        shortlists=lambda layer: shortlists,
        select=lambda layer, given, *, form, offsets, out: calls.append(f"select {form}"),
        watch=lambda layer, given: calls.append("watch"),
        count_exact=lambda: calls.append("count"),
    )
    monkeypatch.setattr(runtime.current, "backend", backend)
    monkeypatch.setattr(cuda_indexer, "_index_k", lambda indexer, layer: torch.zeros(1))
    monkeypatch.setattr(IndexCacheHopperBackend, "inputs", lambda self, *arguments: "inputs")
    monkeypatch.setattr(
        IndexCacheHopperBackend, "terms", staticmethod(lambda metadata: SimpleNamespace(form="slots", offsets=None))
    )

    def sglangs(*arguments: Any) -> str:
        calls.append("sglang")
        return "theirs"

    out = torch.zeros(3, K)
    found = cuda_indexer._ragged(sglangs, None, False, None, 0, torch.zeros(3, 2, 4), None, None, out)
    expected = ["select slots"] if shortlists else [*(["watch"] if lists else []), "count", "sglang"]
    assert calls == expected
    assert found is out if shortlists else found == "theirs"
    assert backend.kernels["prefill", "indexer"] == ("two_level" if shortlists else "sglang")


@pytest.mark.parametrize(("lengths", "new"), [([5], [5]), ([5, 9], [2, 1]), ([], [])])
def test_row_lengths(lengths: list[int], new: list[int]) -> None:
    rows = RowLengths.extend(torch.tensor(lengths), new)
    expected = [n for length, count in zip(lengths, new, strict=True) for n in range(length - count + 1, length + 1)]
    assert rows.clipped(10**6).tolist() == expected
    assert rows.keys(len(rows)) == sum(expected)
    assert rows.longest == max(expected, default=0)


# --- our indexer kernel, with the reference in its place ---


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
def kernel(monkeypatch: pytest.MonkeyPatch, backend: IndexCacheHopperBackend) -> IndexCacheHopperBackend:
    module = ModuleType("sgl_indexcache.kernels.score_select")
    module.score_select = reference_score_select  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sgl_indexcache.kernels.score_select", module)
    backend.chooser = Chooser(Kernels(indexer="ours"), 4, HEADS, "bf16", hopper=True, ours=True, table=TABLE)
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
def test_prefill_selects_in_place_in_the_form_that_is_asked_for(kernel: IndexCacheHopperBackend) -> None:
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
def test_decode_has_one_row_a_request(kernel: IndexCacheHopperBackend) -> None:
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
def test_decode_steps_of_enough_rows_have_lists(kernel: IndexCacheHopperBackend, unfused: bool) -> None:
    given: list[tuple[int, list[int], bool]] = []

    def list_them(layer: int, inputs: Any, *, slots: bool, out: torch.Tensor) -> None:
        assert inputs.gates.shape == (len(inputs.lengths), HEADS)
        given.append((layer, inputs.lengths.tolist(), slots))
        out.fill_(3)

    kernel.two_level = SimpleNamespace(  # type: ignore[assignment]
        decode=SimpleNamespace(serves=lambda rows: rows > 1, select=list_them)
    )
    indexer, mode = FakeIndexer(packed_keys(6)), SimpleNamespace(forward_mode=ForwardMode.DECODE)
    for rows in (1, 2):
        queries, gates = torch.randn(rows, HEADS, 128).to(torch.float8_e4m3fn), torch.rand(rows, HEADS, 1)
        asked = metadata(TopkTransformMethod.PAGED, [100, 70][:rows], [], unfused=unfused)
        out = cuda_indexer._paged(never, indexer, mode, 5, queries, gates, asked)
        assert bool((out == 3).all()) is (rows == 2)
        assert kernel.kernels["decode", "indexer"] == ("ours", "two_level")[rows - 1]
    assert given == [(5, [100, 70], not unfused)]


def test_sglangs_paged_kernel_gets_as_many_heads_as_it_takes(backend: IndexCacheHopperBackend) -> None:
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
