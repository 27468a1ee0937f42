"""What is compiled before serving is what prefills launch: shapes of launches, with the reference for the kernels.

That nothing else is compiled is shown on a device by tests/gpu/test_warm_up.py.
"""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgl_indexcache.indexer.cuda import warm_up
from sgl_indexcache.indexer.cuda.two_level import CudaKernels
from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE, pack
from sgl_indexcache.kernels.score_select import cuda as score_select_cuda
from sgl_indexcache.kernels.shortlist import cuda as shortlist_cuda
from sgl_indexcache.kernels.shortlist import reference
from sgl_indexcache.selection import Inputs, TensorQueries, Terms
from sgl_indexcache.store.page_records import PageRecords

HEADS, DIM, TOPK, CONTEXT, POOL = 4, 32, 48, 3000, 4
INDEXER = SimpleNamespace(num_init_tokens=0, num_local_tokens=0)
Launch = tuple[str | int | bool, ...]


def power(number: int) -> int:
    return 1 << (number - 1).bit_length()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """What tells compiled kernels apart: rows at a time, forced positions; blocks of keys, k, whether all are read."""
    found: set[Launch] = set()

    def score_select(*arguments: Any, out: torch.Tensor, max_length: int, **options: Any) -> None:
        k = arguments[6]
        if max_length > k:
            found.add(("score", min(8, power(arguments[0].shape[0])), options.get("initial", 0) > 0))
        blocks = -(-max(max_length, k + 1) // 16)
        found.add(("select", power(blocks), power(k), blocks > k))
        out.zero_()

    monkeypatch.setattr(score_select_cuda, "score_select", score_select)
    monkeypatch.setattr(shortlist_cuda, "score_select", score_select)
    for name in ("summarise", "verdicts", "judge"):
        monkeypatch.setattr(CudaKernels, name, staticmethod(getattr(reference, name)))
    return found


def two_level(shortlist: Shortlist) -> TwoLevel:
    records = PageRecords([3, 5], POOL, DIM, "cpu")
    return TwoLevel(records, CudaKernels(1 << 20), shortlist, Guard(0.9, 16), TOPK)


INDEX_K = pack(torch.zeros(POOL, PAGE, DIM).to(torch.float8_e4m3fn), torch.ones(POOL, PAGE))


@pytest.mark.parametrize("size", [5 * PAGE, 0.25, 0.5])
def test_prefills_launch_what_has_been_launched(launches: set[Launch], size: int | float) -> None:
    it = two_level(Shortlist(size))
    assert warm_up.warm_up(it, INDEXER, HEADS, INDEX_K, CONTEXT) > 0
    known = set(launches)
    launches.clear()
    chance = random.Random(0)
    for _ in range(100):
        # Beside a long request another of any length, which may be scored exactly.
        lengths = [chance.randrange(TOPK + 2, CONTEXT + 1), chance.randrange(2, CONTEXT + 1)]
        new = [min(length - 1, chance.choice((1, 2, 3, 5, 30, 200, 1000))) for length in lengths]
        rows = sum(new)
        table = torch.zeros(2, -(-max(lengths) // PAGE), dtype=torch.int32)
        seen = [torch.arange(length - some + 1, length + 1) for length, some in zip(lengths, new, strict=True)]
        queries = torch.zeros(rows, HEADS, DIM).to(torch.float8_e4m3fn)
        inputs = Inputs(
            queries=TensorQueries(queries, torch.zeros(rows, HEADS)),
            index_k=INDEX_K,
            page_table=table,
            request=torch.arange(2).repeat_interleave(torch.tensor(new)).int(),
            lengths=torch.cat(seen).int(),
        )
        it.begin(lengths, new, table, is_request=True)
        if it.shortlists(3):
            it.select(3, inputs, Terms("slots", table), torch.empty(rows, TOPK, dtype=torch.int32))
    assert launches
    assert launches <= known


def test_records_and_counters_are_those_of_a_fresh_start(launches: set[Launch]) -> None:
    it, fresh = two_level(Shortlist(5 * PAGE)), two_level(Shortlist(5 * PAGE))
    warm_up.warm_up(it, INDEXER, HEADS, INDEX_K, CONTEXT)
    assert launches
    assert not it.records.has_summary.any()
    assert not it.records.guard.any()
    it.refresh()
    fresh.refresh()
    assert it.work == fresh.work
    assert not it.lists


def test_a_context_within_a_selection_needs_nothing(launches: set[Launch]) -> None:
    assert warm_up.warm_up(two_level(Shortlist(5 * PAGE)), INDEXER, HEADS, INDEX_K, TOPK) == 0
    assert not launches
