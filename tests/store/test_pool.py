"""The memory of snapshots."""

import pytest

from sgl_indexcache.store import Pool, StoreError
from sgl_indexcache.store.pool import slot_bytes


@pytest.mark.parametrize(("layers", "window", "topk"), [(1, 1, 1), (3, 16, 32), (12, 64, 2048)], ids=str)
def test_slots_fill_the_budget_and_do_not_overlap(layers: int, window: int, topk: int) -> None:
    one = slot_bytes(layers, window, topk)
    pool = Pool(3 * one + 4, layers, window, topk)
    assert pool.slots == 3
    assert pool.used_bytes == 3 * one
    assert pool.selections.shape == (layers, 3, window, topk)
    pool.margins.fill_(0.5)
    pool.selections.fill_(7)
    assert (pool.margins == 0.5).all()
    assert (pool.selections == 7).all()


def test_another_number_of_layers_lies_over_the_same_bytes() -> None:
    pool = Pool(1 << 16, 4, 16, 32)
    before = pool.selections.data_ptr()
    slots = pool.slots
    pool.configure(2)
    assert pool.selections.data_ptr() == before
    assert pool.slots >= 2 * slots
    with pytest.raises(StoreError):
        pool.configure(1 << 12)


def test_a_budget_below_one_snapshot_is_refused() -> None:
    with pytest.raises(StoreError, match=r"one snapshot of 64 rows and 12 Full layers takes 6\.0 MiB"):
        Pool(1 << 20, 12, 64, 2048)
