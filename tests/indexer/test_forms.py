"""Selections in SGLang's three forms, there and back."""

import pytest
import torch

from sgl_indexcache.indexer.forms import from_positions, note_pages, to_positions
from sgl_indexcache.selection import Form, Terms

PAGE_TABLE = torch.tensor([[7, 2, 5]], dtype=torch.int32)
OFFSETS = torch.tensor([1000, 1000, 1000, 1000], dtype=torch.int32)
# In an order of their own, with padding anywhere.
POSITIONS = torch.tensor([[130, 3, -1], [-1, 64, 0], [63, 128, 191]], dtype=torch.int32)
EXPECTED: dict[Form, list[list[int]]] = {
    "positions": POSITIONS.tolist(),
    "offsets": [[1130, 1003, -1], [-1, 1064, 1000], [1063, 1128, 1191]],
    "slots": [[5 * 64 + 2, 7 * 64 + 3, -1], [-1, 2 * 64, 7 * 64], [7 * 64 + 63, 5 * 64, 5 * 64 + 63]],
}


@pytest.mark.parametrize("form", EXPECTED)
def test_there_and_back(form: Form) -> None:
    terms = Terms(form, PAGE_TABLE, OFFSETS)
    page_of = torch.full((9,), 99, dtype=torch.int32)
    note_pages(page_of, PAGE_TABLE)
    found = from_positions(POSITIONS, terms)
    assert found.tolist() == EXPECTED[form]
    assert found.dtype == torch.int32
    back = to_positions(found, terms, page_of)
    assert back.dtype == torch.int32
    assert torch.equal(back, POSITIONS)


def test_pages_that_changed_hands() -> None:
    page_of = torch.zeros(9, dtype=torch.int32)
    note_pages(page_of, torch.tensor([[2, 7]], dtype=torch.int32))
    note_pages(page_of, PAGE_TABLE)
    slots = from_positions(POSITIONS, Terms("slots", PAGE_TABLE))
    assert torch.equal(to_positions(slots, Terms("slots", PAGE_TABLE), page_of), POSITIONS)
