"""Tail snapshots under the CUDA backend, without CUDA: fakes of SGLang's metadata and of its indexer."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod
from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sgl_indexcache.attention.choice import Chooser, Table
from sgl_indexcache.attention.cuda import IndexCacheCudaBackend
from sgl_indexcache.attention.cuda_selection import CudaSelection, terms
from sgl_indexcache.indexer.forms import from_positions
from sgl_indexcache.settings import Kernels
from sgl_indexcache.sglang_port import index_store, runtime
from sgl_indexcache.sglang_port.seams.cuda import indexer as cuda_indexer
from sgl_indexcache.store import Pool, RequestRows, Tail, Tails, WholePrefillStore
from sgl_indexcache.store.pool import slot_bytes

K, PAGE, FULL = 8, 64, (0, 2)
START, END = 128, 170
ROWS = END - START
FORMS: dict[str, tuple[TopkTransformMethod, bool, int]] = {
    "slots": (TopkTransformMethod.PAGED, False, 0),
    "offsets": (TopkTransformMethod.RAGGED, False, 0),
    # One request alone begins at 0; whatever SGLang says is what counts.
    "far offsets": (TopkTransformMethod.RAGGED, False, 4096),
    "positions": (TopkTransformMethod.PAGED, True, 0),
}


@pytest.fixture
def store() -> WholePrefillStore:
    return WholePrefillStore(Pool(4 * slot_bytes(len(FULL), PAGE, K), len(FULL), PAGE, K), FULL)


@pytest.fixture
def backend(store: WholePrefillStore, monkeypatch: pytest.MonkeyPatch) -> IndexCacheCudaBackend:
    """A backend without SGLang's constructor, over SGLang methods that do nothing, wired as the factory wires it."""
    made = object.__new__(IndexCacheCudaBackend)
    made.chooser = Chooser(Kernels(), 4, 2, "bf16", hopper=True, ours=False, table=Table("test", "test", (), ()))
    made.dsa_prefill_impl, made.dsa_decode_impl = "flashmla_sparse", "fa3"
    made._flags = {"prefill": "flashmla_sparse", "decode": "fa3"}
    made._dense_prefill, made.use_mha = True, False
    made.dsa_index_topk, made.layers, made.shared_layers = K, 3, frozenset({1})
    made.work, made.kernels = index_work(), {}
    made.selection = CudaSelection(made.chooser, 1 << 20, torch.arange, made.kernels)  # type: ignore[arg-type]
    monkeypatch.setattr(DeepseekSparseAttnBackend, "init_forward_metadata", lambda self, batch: None)
    monkeypatch.setattr(
        DeepseekSparseAttnBackend, "init_forward_metadata_out_graph", lambda self, batch, in_capture=False: None
    )
    pool = SimpleNamespace(size=5 * PAGE, page_size=PAGE)
    runner: Any = SimpleNamespace(token_to_kv_pool=pool, device="cpu")
    made.selection.snapshots = index_store.snapshots(store, runner)
    monkeypatch.setattr(runtime.current, "backend", made)
    return made


def index_work() -> Any:
    from sgl_indexcache.telemetry.work import IndexerWork

    return IndexerWork()


def batch(
    mode: ForwardMode = ForwardMode.EXTEND, lengths: tuple[int, ...] = (END,), new: tuple[int, ...] = (ROWS,)
) -> Any:
    host = torch.tensor(lengths)
    return SimpleNamespace(
        forward_mode=mode, seq_lens=host, seq_lens_cpu=host, extend_seq_lens_cpu=list(new), rids=["x"], num_padding=0
    )


def rows_of(tails: tuple[Tail, ...] = (), **more: Any) -> RequestRows:
    return RequestRows(1, "r", START, END, prefill=True, tokens=range(ROWS), tails=tails, **more)


def metadata(form: str, pages: list[int]) -> Any:
    method, unfused, first = FORMS[form]
    offsets = torch.full((ROWS,), first, dtype=torch.int32)
    return SimpleNamespace(
        attn_metadata=SimpleNamespace(topk_indices_offset=offsets if method == TopkTransformMethod.RAGGED else None),
        topk_transform_method=method,
        force_unfused_topk=unfused,
        get_page_table_64=lambda: torch.tensor([pages], dtype=torch.int32),
    )


def positions(layer: int) -> torch.Tensor:
    """Selections in no order, with padding at the end of some rows."""
    torch.manual_seed(layer)
    rows = torch.stack([torch.randperm(START + row + 1)[:K] for row in range(ROWS)]).int()
    rows[3, 5:] = -1
    return rows


class Indexer:
    """Stands for SGLang's `_get_topk_ragged`: gives `positions` in the form that is asked for, and counts calls."""

    index_topk = K

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, indexer: Any, dual: bool, fb: Any, layer: int, q: Any, weights: Any, asked: Any, out: Any = None
    ) -> torch.Tensor:
        self.calls += 1
        if out is None:
            out = torch.full((len(q), K), -1, dtype=torch.int32)
        out[:ROWS] = from_positions(positions(layer), terms(asked))
        return out  # type: ignore[no-any-return]


def prefill(
    backend: Any,
    store: WholePrefillStore,
    asked: Any,
    tails: tuple[Tail, ...] = (),
    *,
    padding: int = 0,
    graph: bool = False,
) -> Any:
    """The scheduler's word, the backend's preparation, the Full layers. Returns their selections and the calls."""
    store.begin([rows_of(tails)], 1)
    backend.init_forward_metadata(batch())
    indexer = Indexer()
    queries = torch.zeros(ROWS + padding, 2, 128)
    found = []
    for layer in FULL:
        out = torch.full((ROWS + padding, K), -9, dtype=torch.int32) if graph else None
        found.append(cuda_indexer._ragged(indexer, indexer, False, None, layer, queries, None, asked, out))
        assert out is None or found[-1] is out, "a graph reads what it handed over"
    return found, indexer.calls


def kept(store: WholePrefillStore) -> tuple[Tail, ...]:
    tails = Tails()
    store.keep(1, "r", tails, 64, START, range(ROWS), None)
    store.end(1)
    return tuple(tails)


@pytest.mark.parametrize(("padding", "graph"), [(0, False), (5, False), (22, True)], ids=["eager", "padded", "graph"])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_prefill_is_not_scored_again(
    form: str, padding: int, graph: bool, backend: IndexCacheCudaBackend, store: WholePrefillStore
) -> None:
    _, calls = prefill(backend, store, metadata(form, [3, 1, 0]), padding=padding, graph=graph)
    assert calls == len(FULL)
    tails = kept(store)
    for layer in FULL:
        rows = store.pool.selections[FULL.index(layer), tails[0].slot, :ROWS]
        assert torch.equal(rows, positions(layer)), "kept as positions, in the order in which they came"
    # The last page lies elsewhere now.
    asked = metadata(form, [3, 1, 5])
    found, calls = prefill(backend, store, asked, tails, padding=padding, graph=graph)
    assert calls == 0
    for layer, one in zip(FULL, found, strict=True):
        assert one.shape == (ROWS + padding, K)
        assert one.dtype == torch.int32
        assert torch.equal(one[:ROWS], from_positions(positions(layer), terms(asked)))
        assert (one[ROWS:] == -1).all()


def test_work_is_counted_as_on_the_cpu(backend: IndexCacheCudaBackend, store: WholePrefillStore) -> None:
    prefill(backend, store, metadata("slots", [3, 1, 0]))
    tails = kept(store)
    keys = sum(range(START + 1, END + 1))
    work = backend.work.snapshot()
    assert (work["full_rows"], work["full_keys"], work["reused_rows"]) == (2 * ROWS, 2 * keys, 0)
    prefill(backend, store, metadata("slots", [3, 1, 0]), tails)
    work = backend.work.snapshot()
    assert (work["full_rows"], work["full_keys"]) == (2 * ROWS, 2 * keys)
    assert (work["reused_rows"], work["reused_keys"]) == (2 * ROWS, 2 * keys)
    assert work["shared_rows"] == 2 * ROWS


OTHERS = {
    "decode": batch(ForwardMode.DECODE, (END,)),
    "verify": batch(ForwardMode.TARGET_VERIFY),
    "two requests": batch(lengths=(END, END), new=(ROWS, ROWS)),
    "longer": batch(lengths=(END + 1,)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_forwards_neither_read_nor_write(
    name: str, backend: IndexCacheCudaBackend, store: WholePrefillStore
) -> None:
    prefill(backend, store, metadata("slots", [3, 1, 0]))
    tails = kept(store)
    store.begin([rows_of(tails)], 1)
    backend.init_forward_metadata(OTHERS[name])
    assert backend.selection.snapshots is not None
    assert not backend.selection.snapshots.reads
    assert not backend.selection.snapshots.writes
    assert backend.work.reused_rows == 0


def test_a_captured_decode_neither_reads_nor_writes(backend: IndexCacheCudaBackend, store: WholePrefillStore) -> None:
    assert backend.selection.snapshots is not None
    store.begin([rows_of()], 1)
    backend.init_forward_metadata(batch())
    assert backend.selection.snapshots.writes
    backend.init_forward_metadata_out_graph(batch(ForwardMode.DECODE, (END,)))
    assert not backend.selection.snapshots.writes


def test_a_warm_up_that_nobody_announced(backend: IndexCacheCudaBackend, store: WholePrefillStore) -> None:
    backend.init_forward_metadata(batch())
    assert backend.selection.snapshots is not None
    assert not backend.selection.snapshots.writes


def test_without_a_store_sglangs_indexer_is_called(backend: IndexCacheCudaBackend, store: WholePrefillStore) -> None:
    backend.selection.snapshots = None
    _, calls = prefill(backend, store, metadata("slots", [3, 1, 0]))
    assert calls == len(FULL)
    assert kept(store) == ()
