"""Lists of decode steps: which steps have them, what the kernels are given, and what is counted.

tests/kernels/interpreter/shortlist_decode.py shows that the kernels do what they say; tests/gpu runs them in engines.
"""

from typing import Any

import pytest
import torch

from sgl_indexcache.indexer.cuda import decode_lists
from sgl_indexcache.indexer.cuda.decode_lists import DecodeLists
from sgl_indexcache.indexer.cuda.two_level import CudaKernels
from sgl_indexcache.indexer.guard import SAMPLES, Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.selection import Inputs, TensorQueries
from sgl_indexcache.store.page_records import PageRecords
from sgl_indexcache.telemetry.two_level import TwoLevelWork

TOPK, DIM, POOL, LAYERS = 48, 32, 40, [2, 5]
N = 6


GUARD = Guard(0.9, 4)


def make(min_rows: int | None, size: int | float = N * PAGE) -> DecodeLists:
    return DecodeLists(PageRecords(LAYERS, POOL, DIM, "cpu"), Shortlist(size), GUARD, TOPK, 1 << 20, min_rows)


def test_steps_of_enough_rows_have_lists() -> None:
    assert [make(3).serves(rows) for rows in (0, 1, 2, 3, 4)] == [False, False, False, True, True]
    assert not make(None).serves(1000)
    # A fraction of a context that a graph does not know.
    assert not make(1, 0.25).serves(1000)


@pytest.mark.parametrize(("local", "window"), [(0, 1), (2 * PAGE, 2)])
def test_the_kernels_are_given_the_layers_records(monkeypatch: pytest.MonkeyPatch, local: int, window: int) -> None:
    lists = make(1)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(
        decode_lists, "select_decoded", lambda *arguments, **options: calls.append((arguments, options))
    )
    tensors = [torch.full((1,), number) for number in range(6)]
    inputs = Inputs(TensorQueries(*tensors[:2]), *tensors[2:], initial=3, local=local)
    out = torch.empty(1, TOPK, dtype=torch.int32)
    lists.select(5, inputs, slots=True, out=out)
    ((passed, options),) = calls
    assert [int(tensor) for tensor in passed[:5]] == [0, 1, 2, 3, 5]
    records, n, k, judgement = passed[5:]
    assert records.guard.data_ptr() == lists.records.guard[1].data_ptr()
    assert records.counts.data_ptr() == lists.records.counts[1].data_ptr()
    assert (n, k) == (N, TOPK)
    assert (judgement.every, judgement.need, judgement.floor) == (4, SAMPLES * TOPK, 0.9)
    assert options["out"] is out
    assert (options["slots"], options["window"], options["initial"], options["local"]) == (True, window, 3, local)


def test_what_is_counted_of_a_step() -> None:
    work = TwoLevelWork()
    lengths = torch.tensor([1, PAGE, N * PAGE + 1, N * PAGE + PAGE, (N + 1) * PAGE + 1, 20 * PAGE], dtype=torch.int32)
    make(1).count(lengths, work)
    listed = [(N + 1) * PAGE + 1, 20 * PAGE]
    short = sum(lengths.tolist()) - sum(listed)
    assert (work.rows, work.exact_rows, work.exact_keys) == (2 * 2, 2 * 4, 2 * short)
    assert work.keys_seen == 2 * int(lengths.sum())
    assert work.keys_scored == 2 * (short + 2 * N * PAGE + 1 + PAGE)
    assert work.summaries_scored == 2 * (N + 1 + 19)
    sampled = [length for length in listed if GUARD.sampled(torch.tensor([length - 1]))]
    assert work.keys_sampled == 2 * sum(sampled)


def test_what_the_device_counted_is_reported_once() -> None:
    lists = make(1)
    two_level = TwoLevel(lists.records, CudaKernels(1 << 20), Shortlist(N * PAGE), GUARD, TOPK)
    lists.count(torch.tensor([20 * PAGE] * 3), two_level.work)
    before = two_level.work.snapshot()
    lists.records.counts[1] += torch.tensor([2, 70, 1, 20 * PAGE])
    for _ in range(2):
        two_level.refresh()
        recall = two_level.work.layers[5]
        assert (recall.rows, recall.expected, recall.held, recall.fallbacks) == (2, 2 * TOPK, 70, 1)
        after = two_level.work.snapshot()
        assert after["keys_sampled"] == before["keys_sampled"] + 20 * PAGE
        # Counters, which only rise, must not be taken back when the device is heard.
        for name in ("rows", "exact_rows", "exact_keys", "keys_seen", "keys_scored"):
            assert after[name] == before[name]
    assert two_level.work.layers[2].rows == 0
