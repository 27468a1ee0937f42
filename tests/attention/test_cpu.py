"""The CPU backend without an engine: what a Full layer selects, what it knows already, and what is counted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from sgl_indexcache.attention import cpu
from sgl_indexcache.attention.cpu import IndexCacheCpuBackend
from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.selection import KnownRows
from sgl_indexcache.store import IndexStore, Pool, RequestRows, Tails
from sgl_indexcache.store.pool import slot_bytes

from ..indexer.context import LAYER, LENGTH, TOPK, Context, slots_of

PATTERN = Pattern("FSFSSF")
INDEXER: Any = SimpleNamespace(index_topk=TOPK, num_init_tokens=0, num_local_tokens=0)
Span = tuple[int, torch.Tensor, int, int]
"""Request, page table, first position, end."""


class Served:
    """A backend over the memory of one context, whose tokens every request has."""

    def __init__(self, two_level: bool, guard: Guard | None = None) -> None:
        self.context = context = Context("cpu") if guard is None else Context("cpu", guard=guard)
        self.table = torch.zeros(6, LENGTH, dtype=torch.int32)
        pool = SimpleNamespace(set_index_k=self._set_index_k, index_k=lambda layer: context.index_k)
        runner: Any = SimpleNamespace(
            device="cpu", req_to_token_pool=SimpleNamespace(req_to_token=self.table), token_to_kv_pool=pool
        )
        self.backend = IndexCacheCpuBackend(runner, 1 << 20, PATTERN)
        if two_level:
            self.backend.two_level = context.two_level

    def _set_index_k(self, layer: int, slots: torch.Tensor, keys: torch.Tensor) -> None:
        self.context.index_k[slots] = keys

    def forward(self, *spans: Span, padding: int = 0, mode: ForwardMode = ForwardMode.EXTEND) -> torch.Tensor:
        """A Full layer's selection for these rows and rows of padding."""
        empty = torch.empty(0, dtype=torch.int64)
        for request, pages, _, end in spans:
            self.table[request, :end] = slots_of(pages, 0, end).int()
        positions = torch.cat(
            [*(torch.arange(start, end) for *_, start, end in spans), empty, empty.new_zeros(padding)]
        )
        slots = torch.cat([*(slots_of(*span[1:]) for span in spans), empty, empty.new_zeros(padding)])
        batch: Any = SimpleNamespace(
            forward_mode=mode,
            req_pool_indices=torch.tensor([request for request, *_ in spans], dtype=torch.int64),
            seq_lens=torch.tensor([end for *_, end in spans], dtype=torch.int64),
            extend_seq_lens_cpu=[end - start for *_, start, end in spans],
            positions=positions,
            out_cache_loc=slots,
            rids=[str(request) for request, *_ in spans],
        )
        self.backend.init_forward_metadata(batch)
        x = torch.empty(len(positions), 1)
        selection = self.backend.select(INDEXER, x, x, positions, batch, LAYER, True)
        assert selection is not None
        return selection


@pytest.fixture(autouse=True)
def projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, queries and gates are those of the context at a row's position."""
    context = Context("cpu")
    monkeypatch.setattr(cpu, "project_key", lambda indexer, x, positions: context.k[positions])
    monkeypatch.setattr(
        cpu, "project_query", lambda indexer, x, q, positions, plain: (context.q[positions], context.gates[positions])
    )


class OneStore:
    """Knows the same of every layer, and keeps what is written down."""

    def __init__(self, known: KnownRows) -> None:
        self.known, self.written = known, False

    def lay_out(self, request: torch.Tensor, length: torch.Tensor) -> None: ...

    def known_rows(self, layer: int) -> KnownRows:
        return self.known

    def put(self, layer: int, known: KnownRows) -> None:
        self.written = known is self.known


def known_rows(rows: int, settled: list[int]) -> KnownRows:
    """Rows of which the `settled` ones are known to select 7 throughout."""
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[settled] = True
    selection = torch.full((rows, TOPK), -1, dtype=torch.int32)
    selection[mask] = 7
    return KnownRows(selection, mask, torch.ones(rows, dtype=torch.bool), torch.zeros(rows))


@pytest.mark.parametrize("two_level", [False, True], ids=["exact", "two-level"])
def test_a_context_selects_the_same_cold_warm_and_decoded(two_level: bool) -> None:
    served = Served(two_level)
    context = served.context
    expected = context.defined() if two_level else context.exact(torch.arange(LENGTH))
    pages = context.place()
    cold = served.forward((1, pages, 0, 8 * PAGE), padding=2)
    assert torch.equal(cold, torch.cat((expected[: 8 * PAGE], torch.full((2, TOPK), -1))))
    other = context.place(avoid=pages)
    both = served.forward((1, pages, 8 * PAGE, LENGTH - 1), (3, pages, LENGTH, LENGTH), (2, other, 0, 70))
    assert torch.equal(both, torch.cat((expected[8 * PAGE : LENGTH - 1], expected[:70]))), "request 3 has no rows"
    assert torch.equal(served.forward((1, pages, LENGTH - 1, LENGTH), mode=ForwardMode.DECODE), expected[LENGTH - 1 :])
    work = served.backend.work
    assert (work.full_rows, work.full_keys) == (LENGTH + 70 + 2, sum(range(LENGTH + 1)) + sum(range(71)))
    if two_level:
        assert context.two_level.work.rows + context.two_level.work.exact_rows == LENGTH + 70


def test_known_requests_keep_their_selections_and_others_are_scored_whole() -> None:
    served = Served(two_level=True)
    context = served.context
    expected, pages, start = context.defined(), context.place(), LENGTH - 5
    served.forward((1, pages, 0, LENGTH))
    before = context.two_level.work.rows
    # Request 1 is known, request 2 brings no rows, of request 3 a row is missing; then padding.
    known = known_rows(12, [0, 1, 2, 3, 4, 5, 6, 8, 9])
    store = OneStore(known)
    served.backend.store = store  # type: ignore[assignment]
    selection = served.forward(
        (1, pages, start, LENGTH), (2, pages, start, start), (3, pages, start, LENGTH), padding=2
    )
    assert store.written
    assert selection is known.selection
    assert (selection[:5] == 7).all()
    assert torch.equal(selection[5:10], expected[start:])
    assert (selection[10:] == -1).all()
    assert known.settled.tolist() == [True] * 5 + [False] * 7
    assert (known.margin == 0).all(), "how firmly a list decides is not known"
    assert context.two_level.work.rows - before == 5
    assert (served.backend.work.reused_rows, served.backend.work.reused_keys) == (5, sum(range(start + 1, LENGTH + 1)))


def test_a_prefill_that_was_run_before_is_read_from_the_store_and_leaves_the_same_samples() -> None:
    served = Served(two_level=True, guard=Guard(0.0, 2))
    context, pages, start = served.context, served.context.place(), 9 * PAGE
    store = IndexStore(Pool(4 * slot_bytes(1, PAGE, TOPK), 1, PAGE, TOPK), [LAYER], 6, tolerance=0.01)
    served.backend.store = store
    tokens, tails = list(range(start, LENGTH)), Tails()
    store.begin([RequestRows(1, "a", 0, start, prefill=True)])
    served.forward((1, pages, 0, start))
    store.begin([RequestRows(1, "a", start, LENGTH, prefill=True)])
    first = served.forward((1, pages, start, LENGTH))
    assert store.keep(1, "a", tails, start, start, tokens, None)
    store.end(1)
    rows, guard = context.two_level.work.rows, context.records.guard[1, int(pages[9])].clone()
    assert guard[0] > 0
    again = torch.cat((pages[:9], context.place(avoid=pages)[9:]))
    store.begin([RequestRows(2, "b", start, LENGTH, True, tokens, list(tails))])
    assert torch.equal(served.forward((2, again, start, LENGTH)), first)
    assert served.backend.work.reused_rows == LENGTH - start
    assert context.two_level.work.rows == rows
    assert torch.equal(context.records.guard[1, int(again[9])], guard)
    # Margins are 0: beside another request nothing is taken.
    store.end(2)
    store.begin([RequestRows(n, str(n), start, LENGTH, True, tokens, list(tails)) for n in (3, 4)])
    other = torch.cat((pages[:9], context.place(avoid=torch.cat((pages, again)))[9:]))
    served.forward((3, again, start, LENGTH), (4, other, start, LENGTH))
    assert served.backend.work.reused_rows == LENGTH - start


@pytest.mark.parametrize("two_level", [False, True], ids=["exact", "two-level"])
def test_a_forward_without_requests_selects_nothing(two_level: bool) -> None:
    served = Served(two_level)
    served.forward((1, served.context.place(), 0, LENGTH))
    served.backend.store = OneStore(known_rows(3, []))  # type: ignore[assignment]
    assert (served.forward(padding=3, mode=ForwardMode.IDLE) == -1).all()


def test_another_pattern_is_served_with_records_of_its_own_layers() -> None:
    served = Served(two_level=True)
    served.forward((1, served.context.place(), 0, LENGTH))
    assert served.context.records.has_summary.any()
    served.backend.configure(Pattern("FSSSSF"))
    assert served.backend.shared_layers == {1, 2, 3, 4}
    assert served.context.two_level.layers == served.context.records.layers == (0, 5)
    assert not served.context.records.has_summary.any()
    expected = served.context.defined()
    assert torch.equal(served.forward((1, served.context.place(), 0, LENGTH)), expected)
    served.backend.two_level = None
    served.backend.configure(PATTERN)
    assert served.backend.shared_layers == {1, 3, 4}


def test_a_layer_without_a_selection_is_an_error() -> None:
    layer: Any = SimpleNamespace(layer_id=1)
    with pytest.raises(RuntimeError, match="layer 1 was given no selection"):
        Served(two_level=False).backend.forward_extend(torch.empty(1), None, None, layer, None)  # type: ignore[arg-type]
