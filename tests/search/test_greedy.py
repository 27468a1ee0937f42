"""Algorithm 1 on tables of losses: exact picks, exact ties, and the distance to the optimum."""

import itertools
from collections.abc import Sequence
from random import Random

import pytest

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search.errors import SearchError
from sgl_indexcache.search.greedy import blockwise, evaluations, greedy

LAYERS = 6
ALL = [Pattern("F" + "".join(tail)) for tail in itertools.product("FS", repeat=LAYERS - 1)]


class Table:
    """Losses by pattern, which counts what is asked."""

    def __init__(self, losses: dict[Pattern, float]) -> None:
        self.losses, self.asked = losses, []

    def __call__(self, patterns: Sequence[Pattern]) -> list[float]:
        self.asked += list(patterns)
        return [self.losses[pattern] for pattern in patterns]


def random_table(seed: int) -> Table:
    draw = Random(seed)
    return Table({pattern: draw.random() for pattern in ALL})


def additive_table(costs: Sequence[float]) -> Table:
    """Every Shared layer costs the same in any company: greedy is optimal there."""
    return Table({pattern: 1 + sum(costs[layer] for layer in pattern.shared_layers) for pattern in ALL})


@pytest.mark.parametrize("seed", range(20))
def test_every_step_takes_the_best_single_flip(seed: int) -> None:
    table = random_table(seed)
    steps = greedy(LAYERS, 1, table)
    assert [step.full for step in steps] == [6, 5, 4, 3, 2, 1]
    for before, after in itertools.pairwise(steps):
        reachable = [
            pattern
            for pattern in ALL
            if len(pattern.full_layers) == after.full and set(before.pattern.shared_layers) < set(pattern.shared_layers)
        ]
        assert after.loss == min(table.losses[pattern] for pattern in reachable)
        assert len(after.candidates or {}) == len(reachable)
    assert len(table.asked) == evaluations(LAYERS, 1) == 16


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_optimum_at_every_budget_when_layers_do_not_interact(seed: int) -> None:
    draw = Random(seed)
    table = additive_table([draw.random() for _ in range(LAYERS)])
    for step in greedy(LAYERS, 1, table):
        same = [pattern for pattern in ALL if len(pattern.full_layers) == step.full]
        assert step.pattern == min(same, key=lambda pattern: table.losses[pattern])


def test_ties_go_to_the_lower_layer() -> None:
    steps = greedy(LAYERS, 1, Table(dict.fromkeys(ALL, 1.0)))
    assert [step.flipped for step in steps] == [None, 1, 2, 3, 4, 5]
    costs = [0, 2.0, 1.0, 2.0, 1.0, 1.0]
    assert [step.flipped for step in greedy(LAYERS, 1, additive_table(costs))] == [None, 2, 4, 5, 1, 3]


def test_it_stops_at_the_budget() -> None:
    steps = greedy(LAYERS, 4, random_table(0))
    assert [step.full for step in steps] == [6, 5, 4]
    assert evaluations(LAYERS, 4) == 1 + 5 + 4
    assert [step.full for step in greedy(LAYERS, 6, random_table(0))] == [6]


def test_the_papers_count_of_forwards() -> None:
    assert evaluations(47, 1) - 1 == 47 * 46 // 2 == 1081


def test_blocks_keep_their_first_layers_and_find_the_optimum_when_layers_do_not_interact() -> None:
    costs = [0, 0.5, 0.1, 9.0, 0.3, 0.2]
    table = additive_table(costs)
    found = blockwise(LAYERS, 2, 2, table)
    assert [step.flipped for step in found.steps] == [None, 2, 5, 4, 1]
    assert str(found.steps[-1].pattern) == "FSSFSS"
    assert [[step.flipped for step in block] for block in found.blocks] == [[2, 1], [5, 4]]
    assert len(table.asked) == evaluations(LAYERS, 2, 2)


def test_one_block_is_the_full_sweep() -> None:
    table = random_table(3)
    assert [step.pattern for step in blockwise(LAYERS, 1, 1, table).steps] == [
        step.pattern for step in greedy(LAYERS, 1, table)
    ]


def test_blocks_need_fewer_forwards() -> None:
    assert evaluations(47, 12, 4) < evaluations(47, 12) / 3


def test_blocks_that_cannot_reach_the_budget_are_refused() -> None:
    with pytest.raises(SearchError, match="3 blocks keep their first layers"):
        blockwise(LAYERS, 2, 3, random_table(0))
    with pytest.raises(SearchError, match="outside"):
        blockwise(LAYERS, 6, 7, random_table(0))
