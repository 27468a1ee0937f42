"""What --enable-return-indexer-topk returns on CUDA: positions, whatever slots they lie in. Runs on CPU tensors."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.runtime_context import get_resources
from sglang.srt.state_capturer.indexer_topk import IndexerTopkCapturer

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.seams.cuda import capture

PAGE = 4


class Taken:
    """Stands for BaseTopkCapturer.capture: keeps what it was given."""

    def __init__(self) -> None:
        self.found: dict[int, torch.Tensor] = {}

    def __call__(self, capturer: Any, layer_id: int, topk_indices: torch.Tensor) -> None:
        self.found[layer_id] = topk_indices


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    pool = SimpleNamespace(size=16, page_size=PAGE)
    made = SimpleNamespace(token_to_kv_pool=pool, device="cpu", position_of_slot=None)
    monkeypatch.setattr(runtime.current, "backend", made)
    monkeypatch.setattr(get_resources(), "indexer_capturer", object.__new__(IndexerTopkCapturer))
    return made


def forward(backend: SimpleNamespace, slots: list[int], positions: list[int]) -> None:
    batch = SimpleNamespace(out_cache_loc=torch.tensor(slots), positions=torch.tensor(positions))
    assert capture._remember("kept", backend, batch) == "kept"


def test_slots_become_ascending_positions(backend: SimpleNamespace) -> None:
    forward(backend, [9, 10, 11, 4], [0, 1, 2, 3])
    forward(backend, [5], [4])
    taken = Taken()
    capturer = object.__new__(IndexerTopkCapturer)
    rows = torch.tensor([[5, 9, 11, -1], [-1, -1, -1, -1]], dtype=torch.int32)
    capture._capture(taken, capturer, 3, rows)
    assert taken.found[3].tolist() == [[0, 2, 4, -1], [-1, -1, -1, -1]]
    assert taken.found[3].dtype == torch.int32


def test_a_recycled_slot_has_its_new_position(backend: SimpleNamespace) -> None:
    forward(backend, [4, 5], [0, 1])
    forward(backend, [5], [7])
    taken = Taken()
    capture._capture(taken, object.__new__(IndexerTopkCapturer), 0, torch.tensor([[4, 5]], dtype=torch.int32))
    assert taken.found[0].tolist() == [[0, 7]]


def test_decode_graphs_read_the_table_and_their_replays_write_it(backend: SimpleNamespace) -> None:
    batch = SimpleNamespace(out_cache_loc=torch.tensor([0, 0]), positions=torch.tensor([0, 0]))
    capture._remember(None, backend, batch, in_capture=True)
    table = backend.position_of_slot
    assert table.eq(-1).all()
    forward(backend, [8, 9, 10], [0, 1, 2])
    step = SimpleNamespace(out_cache_loc=torch.tensor([11]), positions=torch.tensor([3, 0]))  # padded to two rows
    assert capture._remember("kept", backend, step) == "kept"
    assert backend.position_of_slot is table
    taken = Taken()
    rows = torch.tensor([[11, 8, -1]], dtype=torch.int32)
    capture._capture(taken, object.__new__(IndexerTopkCapturer), 0, rows)
    assert taken.found[0].tolist() == [[0, 3, -1]]


def test_without_a_capturer_nothing_of_a_forward_is_read(
    backend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_resources(), "indexer_capturer", None)
    assert capture._remember("kept", backend, SimpleNamespace()) == "kept"
    assert backend.position_of_slot is None


def test_other_captures_and_other_backends_are_left_alone(backend: SimpleNamespace) -> None:
    rows = torch.tensor([[4, 5]], dtype=torch.int32)
    other = SimpleNamespace(token_to_kv_pool=backend.token_to_kv_pool)
    forward(other, [4, 5], [0, 1])
    assert not hasattr(other, "position_of_slot")
    forward(backend, [4, 5], [0, 1])
    taken = Taken()
    capture._capture(taken, object(), 0, rows)
    assert taken.found[0] is rows
