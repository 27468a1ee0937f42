"""Lists of decode steps: which steps have them, what the kernels are given, and what is counted.

tests/kernels/interpreted_decode.py shows that the kernels do what they say; tests/gpu runs them in engines.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgl_indexcache.indexer import two_level_decode
from sgl_indexcache.indexer.inputs import Inputs
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import SAMPLES, Guard
from sgl_indexcache.indexer.two_level_cuda import TwoLevelCuda
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.store.device_pages import DevicePages

TOPK, DIM, POOL, LAYERS = 48, 32, 40, [2, 5]
N = 6


def make(decode_rows: int | None, size: int | float = N * PAGE, every: int = 4) -> TwoLevelCuda:
    pages = DevicePages(LAYERS, POOL, DIM, "cpu")
    return TwoLevelCuda(pages, Shortlist(size), Guard(0.9, every), TOPK, 1 << 20, decode_rows=decode_rows)


def test_steps_of_enough_rows_have_lists() -> None:
    assert [make(3).decode.serves(rows) for rows in (0, 1, 2, 3, 4)] == [False, False, False, True, True]
    assert not make(None).decode.serves(1000)
    # A fraction of a context that a graph does not know.
    assert not make(1, 0.25).decode.serves(1000)


@pytest.mark.parametrize(("local", "window"), [(0, 1), (2 * PAGE, 2)])
def test_the_kernels_are_given_the_layers_records(monkeypatch: pytest.MonkeyPatch, local: int, window: int) -> None:
    two_level = make(1)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(two_level_decode, "select_decoded", lambda *given, **more: calls.append((given, more)))
    names = ("queries", "gates", "index_k", "page_table", "request", "lengths")
    given = Inputs(
        SimpleNamespace(num_init_tokens=3, num_local_tokens=local),
        **{name: torch.full((1,), number) for number, name in enumerate(names)},
    )
    out = torch.empty(1, TOPK, dtype=torch.int32)
    two_level.decode.select(5, given, slots=True, out=out)
    ((passed, more),) = calls
    assert [int(tensor) for tensor in passed[:5]] == [0, 1, 2, 3, 5]
    records, n, k, judgement = passed[5:]
    assert records.guard.data_ptr() == two_level.pages.guard[1].data_ptr()
    assert records.counts.data_ptr() == two_level.decode.counts[1].data_ptr()
    assert (n, k) == (N, TOPK)
    assert (judgement.every, judgement.need, judgement.floor) == (4, SAMPLES * TOPK, 0.9)
    assert more["out"] is out
    assert (more["slots"], more["window"], more["initial"], more["local"]) == (True, window, 3, local)


def test_what_is_counted_of_a_step() -> None:
    two_level = make(1)
    lengths = torch.tensor([1, PAGE, N * PAGE + 1, N * PAGE + PAGE, (N + 1) * PAGE + 1, 20 * PAGE], dtype=torch.int32)
    two_level.decode.count(lengths, two_level.work)
    work = two_level.work
    listed = [(N + 1) * PAGE + 1, 20 * PAGE]
    short = sum(lengths.tolist()) - sum(listed)
    assert (work.rows, work.exact_rows, work.exact_keys) == (2 * 2, 2 * 4, 2 * short)
    assert work.keys_seen == 2 * int(lengths.sum())
    assert work.keys_scored == 2 * (short + 2 * N * PAGE + 1 + PAGE)
    assert work.summaries_scored == 2 * (N + 1 + 19)
    sampled = [length for length in listed if two_level.guard.sampled(torch.tensor([length - 1]))]
    assert work.keys_sampled == 2 * sum(sampled)


def test_what_the_device_counted_is_told_once() -> None:
    two_level = make(1)
    two_level.decode.count(torch.tensor([20 * PAGE] * 3), two_level.work)
    before = two_level.work.snapshot()
    two_level.decode.counts[1] += torch.tensor([2, 70, 1, 20 * PAGE])
    for _ in range(2):
        two_level.refresh()
        seen = two_level.work.layers[5]
        assert (seen.rows, seen.wanted, seen.found, seen.fallbacks) == (2, 2 * TOPK, 70, 1)
        after = two_level.work.snapshot()
        assert after["keys_sampled"] == before["keys_sampled"] + 20 * PAGE
        # Counters, which only rise, must not be taken back when the device is heard.
        for name in ("rows", "exact_rows", "exact_keys", "keys_seen", "keys_scored"):
            assert after[name] == before[name]
    assert two_level.work.layers[2].rows == 0
