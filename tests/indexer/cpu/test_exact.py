"""The selector over whole forwards, against scoring and sorting row by row."""

from typing import Any

import pytest
import torch

from sgl_indexcache.indexer.cpu import exact
from sgl_indexcache.indexer.cpu.exact import Queries, Selector
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.selection import Rows

HEADS, DIM, SLOTS = 4, 16, 400


def forward(lengths: list[int], new: list[int], padding: int = 0) -> tuple[Any, ...]:
    """Random queries, gates, keys, a scattered slot table, and the rows of a forward."""
    torch.manual_seed(sum(lengths))
    total = sum(new) + padding
    table = torch.stack([torch.randperm(SLOTS)[: max(lengths)] for _ in lengths]).to(torch.int32)
    rows = Rows.of(range(len(lengths)), lengths, new, total)
    q, gates = torch.randn(total, HEADS, DIM), torch.randn(total, HEADS)
    return lambda part: (q[part], gates[part]), torch.randn(SLOTS, DIM), table, rows


def row_by_row(
    selector: Selector, queries: Queries, keys: torch.Tensor, table: torch.Tensor, rows: Rows
) -> torch.Tensor:
    out = torch.full((rows.length.shape[0], selector.topk), -1, dtype=torch.int32)
    for row, (request, length) in enumerate(zip(rows.request.tolist(), rows.length.tolist(), strict=True)):
        if length == 0:
            continue
        q, gates = queries(slice(row, row + 1))
        scores = score(q, keys[table[request, :length].long()], gates)
        scores[:, : selector.initial] = float("inf")
        if selector.local:
            scores[:, max(0, length - selector.local) :] = float("inf")
        out[row] = select(scores, torch.tensor([length]), selector.topk)
    return out


@pytest.mark.parametrize(
    ("lengths", "new"),
    [
        ([100], [100]),
        ([100], [7]),
        ([100, 33, 64], [100, 33, 64]),
        ([100, 33, 64, 200], [1, 33, 10, 200]),
        ([17, 150, 90], [1, 1, 1]),
        ([8, 9], [8, 9]),
    ],
    ids=["cold", "warm", "batch", "mixed", "decode", "shorter-than-topk"],
)
@pytest.mark.parametrize("topk", [8, 64])
def test_equals_row_by_row(lengths: list[int], new: list[int], topk: int) -> None:
    selector = Selector(topk)
    case = forward(lengths, new)
    assert torch.equal(selector(*case), row_by_row(selector, *case))


@pytest.mark.parametrize(("initial", "local"), [(3, 0), (0, 5), (4, 4)])
def test_initial_and_local_tokens_are_always_selected(initial: int, local: int) -> None:
    selector = Selector(16, initial=initial, local=local)
    case = forward([100, 40], [100, 3])
    picks = selector(*case)
    assert torch.equal(picks, row_by_row(selector, *case))
    for row, length in zip(picks, case[3].length.tolist(), strict=True):
        forced = set(range(min(initial, length))) | set(range(max(0, length - local), length))
        assert forced <= set(row.tolist())


def test_padding_rows_select_nothing() -> None:
    picks = Selector(8)(*forward([20], [20], padding=3))
    assert picks[20:].eq(-1).all()


def test_slices_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case = forward([200, 150], [200, 90])
    whole = Selector(32)(*case)
    monkeypatch.setattr(exact, "TILE_PRODUCTS", 64)
    monkeypatch.setattr(exact, "KEYS_PER_TILE", 7)
    monkeypatch.setattr(exact, "ROWS_PER_SLICE", 5)
    assert torch.equal(Selector(32)(*case), whole)


def test_scratch_bounds_the_score_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def spy(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
        seen.append(scores.numel() * scores.element_size())
        return select(scores, lengths, k)

    monkeypatch.setattr(exact, "select", spy)
    budget = 3000
    Selector(32, scratch_bytes=budget)(*forward([200], [200]))
    assert seen
    assert max(seen) <= budget


def test_more_rows_than_the_forward_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="hold 5 rows, the forward has 4"):
        Rows.of([0], [5], [5], 4)
