"""What is compiled before serving is what prefills launch: shapes of launches, with the reference for the kernels.

That nothing else is compiled is shown on a device by tests/gpu/test_warm_up.py.
"""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgl_indexcache.indexer import two_level_cuda, warm_up
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import Guard
from sgl_indexcache.indexer.two_level_cuda import Inputs, TwoLevelCuda
from sgl_indexcache.kernels import score_select as op
from sgl_indexcache.kernels.score_select.reference import pack
from sgl_indexcache.kernels.shortlist import PAGE, api, reference
from sgl_indexcache.store.device_pages import DevicePages

HEADS, DIM, TOPK, CONTEXT, POOL = 4, 32, 48, 3000, 4
INDEXER = SimpleNamespace(num_init_tokens=0, num_local_tokens=0)
Launch = tuple[int, int, int, bool, bool]


def power(number: int) -> int:
    return 1 << (number - 1).bit_length()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> set[Launch]:
    """What tells compiled kernels apart: rows at a time, blocks of keys, k, whether all are read, forced positions."""
    found: set[Launch] = set()

    def score_select(*arguments: Any, out: torch.Tensor, max_length: int, **options: Any) -> None:
        rows = min(8, power(arguments[0].shape[0]))
        blocks, k = -(-max_length // 16), arguments[6]
        found.add((rows, power(blocks), power(k), blocks > k, options.get("initial", 0) > 0))
        out.zero_()

    monkeypatch.setattr(op, "score_select", score_select)
    monkeypatch.setattr(api, "score_select", score_select)
    monkeypatch.setattr(two_level_cuda, "summarise", reference.summarise)
    return found


def two_level(shortlist: Shortlist) -> TwoLevelCuda:
    return TwoLevelCuda(DevicePages([3, 5], POOL, DIM, "cpu"), shortlist, Guard(0.9, 16), TOPK, 1 << 20)


INDEX_K = pack(torch.zeros(POOL, PAGE, DIM).to(torch.float8_e4m3fn), torch.ones(POOL, PAGE))


@pytest.mark.parametrize("size", [5 * PAGE, 0.25, 0.5])
def test_prefills_launch_what_has_been_launched(launches: set[Launch], size: int | float) -> None:
    it = two_level(Shortlist(size))
    assert warm_up.warm_up(it, INDEXER, HEADS, INDEX_K, CONTEXT) > 0
    known = set(launches)
    launches.clear()
    chance = random.Random(0)
    for _ in range(100):
        length = chance.randrange(TOPK + 2, CONTEXT + 1)
        rows = min(length - 1, chance.choice((2, 3, 5, 30, 200, 1000)))
        table = torch.zeros(1, -(-length // PAGE), dtype=torch.int32)
        given = Inputs(
            indexer=INDEXER,
            queries=torch.zeros(rows, HEADS, DIM).to(torch.float8_e4m3fn),
            gates=torch.zeros(rows, HEADS),
            index_k=INDEX_K,
            page_table=table,
            request=torch.zeros(rows, dtype=torch.int32),
            lengths=torch.arange(length - rows + 1, length + 1, dtype=torch.int32),
        )
        it.begin([length], [rows], table, asked=True)
        if it.shortlists(3):
            it.select(3, given, form="slots", offsets=None, out=torch.empty(rows, TOPK, dtype=torch.int32))
    assert launches
    # Rows that are scored exactly come in any number, the first of a prompt that see little.
    assert {launch for launch in launches if launch[1] * 16 > TOPK} <= known


def test_records_and_counters_are_those_of_a_fresh_start(launches: set[Launch]) -> None:
    it, fresh = two_level(Shortlist(5 * PAGE)), two_level(Shortlist(5 * PAGE))
    warm_up.warm_up(it, INDEXER, HEADS, INDEX_K, CONTEXT)
    assert launches
    assert not it.pages.there.any()
    assert not it.pages.guard.any()
    it.refresh()
    fresh.refresh()
    assert it.work == fresh.work
    assert not it.lists


def test_a_context_within_a_selection_needs_nothing(launches: set[Launch]) -> None:
    assert warm_up.warm_up(two_level(Shortlist(5 * PAGE)), INDEXER, HEADS, INDEX_K, TOPK) == 0
    assert not launches
