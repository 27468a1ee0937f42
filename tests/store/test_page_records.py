"""Records of pages: whose they are, what makes them absent, and what they take."""

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.store.page_records import PageRecords, page_bytes

DIM, POOL, LAYERS = 16, 12, [3, 5]


def filled() -> PageRecords:
    records = PageRecords(LAYERS, POOL, DIM, "cpu")
    records.has_summary.fill_(1)
    records.guard.fill_(7)
    return records


def test_a_forward_takes_the_pages_that_it_begins() -> None:
    records = filled()
    positions = torch.tensor([PAGE - 1, PAGE, PAGE + 1, 0, 5, -1])
    slots = torch.tensor([5 * PAGE - 1, 9 * PAGE, 9 * PAGE + 1, 4 * PAGE, 7 * PAGE + 5, 0])
    records.take(positions, slots)
    for layer in LAYERS:
        _, has_summary = records.of(layer)
        # Page 0 is SGLang's padding and nobody's.
        assert has_summary[1:].tolist() == [page not in (4, 9) for page in range(1, POOL)]
        assert (records.guard_of(layer)[1:] == 0).all(1).tolist() == [page in (4, 9) for page in range(1, POOL)]


def test_forgetting_leaves_no_record_and_keeps_the_counts() -> None:
    records = filled()
    records.counts_of(5)[0] = 3
    records.forget()
    assert not records.has_summary.any()
    assert not records.guard.any()
    assert records.counts[1].tolist() == [3, 0, 0, 0]


def test_other_layers_begin_anew() -> None:
    records = filled()
    records.configure([1])
    assert records.layers == (1,)
    assert records.summaries.shape == (1, POOL, DIM + 4)
    assert not records.has_summary.any()


def test_a_record_takes_a_sixtieth_of_fp8_index_keys() -> None:
    assert page_bytes(128) == 132 + 8 + 1
    assert page_bytes(128) <= PAGE * 132 / 59
    assert PageRecords([0, 1], 100, 128, "cpu").used_bytes == 2 * 100 * page_bytes(128)
