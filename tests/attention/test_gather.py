"""The torch consumer over whole forwards, against one call for each row."""

import pytest
import torch

from sgl_indexcache.attention import gather
from sgl_indexcache.kernels.sparse_mla.cpu import sparse_mla
from sgl_indexcache.selection import Rows

SLOTS, DIM, VALUE, HEADS, TOPK = 300, 24, 16, 3, 12


def case(lengths: list[int], new: list[int], padding: int = 0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(len(lengths))
    rows = Rows.of(range(len(lengths)), lengths, new, sum(new) + padding)
    table = torch.stack([torch.randperm(SLOTS)[: max(lengths)] for _ in lengths]).to(torch.int32)
    picks = torch.full((sum(new) + padding, TOPK), -1, dtype=torch.int32)
    for row, length in enumerate(rows.length.tolist()):
        chosen = torch.randperm(length)[:TOPK].sort().values
        picks[row, : chosen.numel()] = chosen.to(torch.int32)
    return torch.randn(sum(new) + padding, HEADS, DIM), torch.randn(SLOTS, DIM), picks, table, rows


@pytest.mark.parametrize("scratch", [1, 1 << 20])
@pytest.mark.parametrize(("lengths", "new"), [([50], [50]), ([50, 7], [3, 7]), ([9, 80, 4], [1, 1, 1])])
def test_equals_one_call_a_row(
    lengths: list[int], new: list[int], scratch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, kv, picks, table, rows = case(lengths, new, padding=2)
    monkeypatch.setattr(gather, "TILE_ELEMENTS", 500)
    out = gather.attend(q, kv, picks, table, rows, VALUE, 0.2, scratch)
    for row in range(sum(new)):
        row_table = table[rows.request[row]].long()
        slots = torch.where(picks[row] < 0, -1, row_table[picks[row].clamp(min=0).long()])
        alone = sparse_mla(q[row : row + 1], kv, slots.unsqueeze(0), VALUE, 0.2)
        torch.testing.assert_close(out[row : row + 1], alone)
    assert out[sum(new) :].eq(0).all()


def test_an_idle_forward_gives_an_empty_output() -> None:
    rows = Rows.of([], [], [], 0)
    out = gather.attend(
        torch.empty(0, HEADS, DIM),
        torch.empty(SLOTS, DIM),
        torch.empty(0, TOPK, dtype=torch.int32),
        torch.empty(1, 1, dtype=torch.int32),
        rows,
        VALUE,
        1.0,
        1 << 20,
    )
    assert out.shape == (0, HEADS, VALUE)
