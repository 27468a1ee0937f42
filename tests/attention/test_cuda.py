"""The CUDA backend without CUDA: what it chooses, plans, counts and hands to its kernels, with fakes below it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sgl_indexcache.attention.choice import Chooser
from sgl_indexcache.attention.cuda import IndexCacheCudaBackend, _fa3_takes
from sgl_indexcache.attention.row_lengths import RowLengths
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Kernels

from ..indexer.context import Context

# Those of conftest.py.
K, HEADS = 8, 2


def batch(mode: ForwardMode, lengths: list[int], new: list[int] | None = None, **more: Any) -> Any:
    host = torch.tensor(lengths)
    fields = {"seq_lens": host, "seq_lens_cpu": host, "extend_seq_lens_cpu": new, "rids": ["x"] * len(lengths)}
    return SimpleNamespace(forward_mode=mode, **{**fields, **more})


def attend(backend: IndexCacheCudaBackend) -> str:
    return backend._forward_fa3(q_nope=None, q_rope=None, kv_cache=None, page_table=None, sm_scale=1.0)  # type: ignore[no-any-return]


def test_decode_takes_the_measured_winner_and_plans_it_once_a_forward(backend: IndexCacheCudaBackend) -> None:
    backend.init_forward_metadata(batch(ForwardMode.DECODE, [5, 100]))
    assert backend._schedules["decode"].plans == [[5, K]]  # type: ignore[attr-defined]
    assert backend.dsa_decode_impl == "fa3", "SGLang's FA3 branch leads to FlashInfer"
    assert attend(backend) == "flashinfer"


def test_prefill_that_was_not_measured_is_sglangs(backend: IndexCacheCudaBackend) -> None:
    backend.init_forward_metadata(batch(ForwardMode.DECODE, [5]))
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [20, 3], [4, 3]))
    assert backend.dsa_prefill_impl == "flashmla_sparse"
    assert attend(backend) == "fa3", "a forward before must leave nothing behind"


@pytest.mark.parametrize(("name", "sglangs"), [("flashinfer", "fa3"), ("fa3", "fa3"), ("flashmla", "flashmla_sparse")])
def test_a_consumer_that_was_asked_for(backend: IndexCacheCudaBackend, name: Any, sglangs: str) -> None:
    backend.chooser = Chooser(
        Kernels(prefill=name), 4, HEADS, "bf16", hopper=True, ours=False, table=backend.chooser.table
    )
    backend.init_forward_metadata(batch(ForwardMode.MIXED, [20, 30], [4, 1]))
    assert backend.dsa_prefill_impl == sglangs
    assert attend(backend) == ("flashinfer" if name == "flashinfer" else "fa3")
    plans = backend._schedules["prefill"].plans  # type: ignore[attr-defined]
    assert plans == ([[K] * 5] if name == "flashinfer" else [])


def test_a_graph_is_planned_at_capture_and_at_replay_with_its_padding(backend: IndexCacheCudaBackend) -> None:
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, [1, 1]), in_capture=True)
    assert backend.work.snapshot()["full_rows"] == 0, "nobody asked for a capture's rows"
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, [7, 50, 1, 1], num_padding=2))
    assert backend._schedules["decode"].plans == [[1, 1], [7, K, 1, 1]]  # type: ignore[attr-defined]
    assert (backend.work.full_rows, backend.work.full_keys) == (2, 57)
    assert (backend.work.shared_rows, backend.work.shared_keys) == (6, 171)


def test_work_of_prefill_is_counted_where_it_is_scored(backend: IndexCacheCudaBackend) -> None:
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [K], [K]))
    assert backend.work.full_rows == 0, "every key is selected without a score"
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [12], [12], rids=None))
    assert backend.work.full_rows == 0, "a warm-up"
    backend.init_forward_metadata(batch(ForwardMode.EXTEND, [12], [2]))
    assert (backend.work.full_rows, backend.work.full_keys) == (2, 11 + 12)


def test_dense_prefill_only_where_fa3_has_kernels(
    backend: IndexCacheCudaBackend, monkeypatch: pytest.MonkeyPatch
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
        self.records = SimpleNamespace(take=lambda at, slots: self.taken.append((at.tolist(), slots.tolist())))
        self.counted: list[list[int]] = []
        self.work = None
        self.lists = SimpleNamespace(
            serves=lambda rows: rows > 1, count=lambda lengths, work: self.counted.append(lengths.tolist())
        )

    def clear(self) -> None:
        self.begun.append(None)

    def begin(self, lengths: list[int], new: list[int], page_table: Any, *, is_request: bool) -> None:
        self.begun.append((lengths, new, is_request))


def test_two_level_scoring_is_told_of_every_page_that_begins(backend: IndexCacheCudaBackend) -> None:
    two_level = FakeTwoLevel()
    backend.selection.two_level = two_level  # type: ignore[assignment]
    backend.selection.decode_lists = two_level.lists  # type: ignore[assignment]
    backend.forward_metadata = SimpleNamespace(real_page_table="pages")
    positions, slots = torch.tensor([126, 127, 128, 0, 0]), torch.tensor([190, 191, 640, 0, 0])
    prefill = batch(ForwardMode.EXTEND, [129], [3], positions=positions, out_cache_loc=slots)
    backend.init_forward_metadata(prefill)
    assert two_level.taken == [([126, 127, 128], [190, 191, 640])], "rows of padding come last and are left out"
    assert two_level.begun == [None, ([129], [3], True)]
    backend.use_mha = True
    backend.init_forward_metadata(prefill)
    assert two_level.begun[2:] == [None], "dense prefill selects nothing, but takes pages"
    assert len(two_level.taken) == 2
    backend.use_mha = False
    for graph in (False, True):
        call = backend.init_forward_metadata_out_graph if graph else backend.init_forward_metadata
        call(batch(ForwardMode.DECODE, [130, 64], out_cache_loc=torch.tensor([641, 127]), num_padding=0))
        assert len(two_level.taken) == 2 + graph, "no page begins"
        call(batch(ForwardMode.DECODE, [131, 65], out_cache_loc=torch.tensor([642, 704]), num_padding=0))
        assert two_level.taken[-1] == ([130, 64], [642, 704])
    assert two_level.begun[3:] == [None] * 4
    assert two_level.counted == [[130, 64], [131, 65]] * 2
    call(batch(ForwardMode.DECODE, [7, 9, 1], out_cache_loc=torch.tensor([1, 1, 0]), num_padding=1))
    assert two_level.counted[4:] == [[7, 9]], "padding is not counted"
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, [1]), in_capture=True)
    assert len(two_level.taken) == 5, "a capture writes nothing"


def test_another_pattern_is_counted_and_has_records_of_its_own_layers(backend: IndexCacheCudaBackend) -> None:
    backend.configure(Pattern("FFFS"))
    assert backend.two_level is None
    context = Context("cuda")
    context.records.has_summary.fill_(1)
    backend.selection.two_level = context.two_level
    backend.configure(Pattern("FSSFSS"))
    assert backend.shared_layers == {1, 2, 4, 5}
    assert context.two_level.layers == context.records.layers == (0, 3)
    assert not context.records.has_summary.any()
    backend.init_forward_metadata(batch(ForwardMode.DECODE, [7, 20], out_cache_loc=torch.tensor([6, 19])))
    assert (backend.work.full_rows, backend.work.shared_rows) == (2 * 2, 4 * 2)


@pytest.mark.parametrize(("lengths", "new"), [([5], [5]), ([5, 9], [2, 1]), ([], [])])
def test_row_lengths(lengths: list[int], new: list[int]) -> None:
    rows = RowLengths.extend(torch.tensor(lengths), new)
    expected = [n for length, count in zip(lengths, new, strict=True) for n in range(length - count + 1, length + 1)]
    assert rows.clipped(10**6).tolist() == expected
    assert rows.keys(len(rows)) == sum(expected)
    assert rows.longest == max(expected, default=0)
