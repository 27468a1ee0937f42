"""Rows whose selection is known are left out, and nothing else changes by it."""

import pytest
import torch

from sgl_indexcache.indexer.cpu import exact
from sgl_indexcache.indexer.cpu.exact import KEYS_ALIGNED, LEAST_PRODUCTS, Selector, margin
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.selection import KnownRows, Rows

HEADS, DIM, TOPK = 16, 32, 24


def known_rows(rows: int, known: list[int]) -> KnownRows:
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[known] = True
    return KnownRows(
        selection=torch.full((rows, TOPK), -1, dtype=torch.int32),
        settled=mask,
        watched=torch.ones(rows, dtype=torch.bool),
        margin=torch.zeros(rows),
    )


@pytest.fixture(scope="module")
def problem() -> tuple[Rows, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    rows = Rows.of([1, 3, 2], [400, 90, 30], [300, 1, 30], 333)
    keys = torch.randn(1000, DIM)
    table = torch.stack([torch.randperm(1000)[:500] for _ in range(4)]).int()
    return rows, torch.randn(333, HEADS, DIM), torch.randn(333, HEADS), keys, table


@pytest.mark.parametrize(
    "known", [[], [200], list(range(40, 60)), list(range(300)), [300], [*range(0, 333, 2)]], ids=str
)
def test_known_rows_are_left_out_and_the_others_are_as_without(known: list[int], problem: tuple) -> None:
    rows, q, gates, keys, table = problem
    parts: list[slice] = []

    def queries(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        parts.append(part)
        return q[part], gates[part]

    selector = Selector(TOPK)
    plain = selector(queries, keys, table, rows)
    count = len(parts)
    inputs = known_rows(333, known)
    marks = torch.full((TOPK,), 7, dtype=torch.int32)
    inputs.selection[known] = marks
    selection = selector(queries, keys, table, rows, inputs)
    assert selection is inputs.selection
    rest = torch.ones(333, dtype=torch.bool)
    rest[known] = False
    assert torch.equal(selection[rest], plain[rest])
    left = inputs.settled.clone()
    left[:TOPK] &= False  # rows that see no more than they select are not scored in either case
    assert (selection[left & (rows.length > TOPK)] == 7).all()
    assert set(inputs.settled.nonzero().squeeze(1).tolist()) <= set(known)
    if known == list(range(300)):
        assert len(parts) - count < count


def test_a_tile_with_few_rows_left_is_scored_whole(problem: tuple) -> None:
    rows, q, gates, keys, table = problem
    inputs = known_rows(333, [row for row in range(100, 300) if row != 222])
    Selector(TOPK)(lambda part: (q[part], gates[part]), keys, table, rows, inputs)
    around = inputs.settled[200:250]
    assert HEADS < LEAST_PRODUCTS
    assert not around.all()
    assert int((~inputs.settled[100:300]).sum()) * HEADS >= LEAST_PRODUCTS


@pytest.mark.parametrize("keys", [KEYS_ALIGNED, 3 * KEYS_ALIGNED, 256])
@pytest.mark.parametrize("heads", [HEADS, 32, 64])
@pytest.mark.parametrize("rows", [4, 5, 31, 63])
def test_a_score_does_not_depend_on_the_rows_beside_it(rows: int, heads: int, keys: int) -> None:
    """What LEAST_PRODUCTS and KEYS_ALIGNED rely on, of the libraries that torch multiplies with here."""
    torch.manual_seed(rows)
    q, gates, past = torch.randn(64, heads, DIM), torch.randn(64, heads), torch.randn(keys, DIM)
    picked = torch.randperm(64)[:rows].sort().values
    assert rows * heads >= LEAST_PRODUCTS
    assert torch.equal(score(q, past, gates)[picked], score(q[picked], past, gates[picked]))


def test_scores_are_those_without_known_rows_to_the_bit(problem: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, q, gates, keys, table = problem
    scored: dict[int, torch.Tensor] = {}

    def spy(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
        picks = select(scores, lengths, k)
        scored.update((length, row[:length]) for row, length in zip(scores, lengths.tolist(), strict=True))
        return picks

    monkeypatch.setattr(exact, "select", spy)
    # Slices that end at every residue, so that no width is aligned by luck.
    monkeypatch.setattr(exact, "ROWS_PER_SLICE", 37)
    Selector(TOPK)(lambda part: (q[part], gates[part]), keys, table, rows)
    plain = dict(scored)
    scored.clear()
    Selector(TOPK)(lambda part: (q[part], gates[part]), keys, table, rows, known_rows(333, [*range(0, 300, 3)]))
    # Longer than any other request: rows of the first one, of which every third is known.
    long = [length for length in scored if length > 100]
    assert len(long) >= 200
    assert all(torch.equal(scored[length], plain[length]) for length in long)


def test_margin() -> None:
    minus, plus = float("-inf"), float("inf")
    scores = torch.tensor(
        [[4.0, 1.0, 3.0, 2.0], [4.0, 2.0, 2.0, minus], [1.0, 2.0, minus, minus], [plus, 1.0, 0.5, 0.0]]
    )
    chosen = torch.tensor([[0, 2], [0, 1], [0, 1], [0, 1]], dtype=torch.int32)
    assert margin(scores, chosen).tolist() == [0.25, 0.0, plus, 0.5]


def test_margins_are_those_of_the_scores(problem: tuple) -> None:
    rows, q, gates, keys, table = problem
    inputs = known_rows(333, [])
    Selector(TOPK)(lambda part: (q[part], gates[part]), keys, table, rows, inputs)
    assert (inputs.margin[301:325] == float("inf")).all()
    row = 250
    past = keys[table[1, : int(rows.length[row])].long()]
    ranked = (
        score(q[row : row + 1].double(), past.double(), gates[row : row + 1].double())[0].sort(descending=True).values
    )
    expected = (ranked[TOPK - 1] - ranked[TOPK]) / ranked.abs().max()
    assert abs(float(inputs.margin[row]) - float(expected)) < 1e-5
