"""Every invariant is found broken when it is broken."""

from collections.abc import Callable

import pytest
import torch

from sgl_indexcache.store.check import InvariantError, check

from .simulation import Simulation

PROMPT = list(range(11))


def lived() -> Simulation:
    """A tree with kept snapshots, one of them of a running request."""
    simulation = Simulation(slots=6, settled=1.0)
    done = simulation.admit(PROMPT, "a", 64)
    assert done is not None
    simulation.finish(done)
    simulation.admit(PROMPT + [7] * 6, "a", 64)
    simulation.check()
    return simulation


def leak(s: Simulation) -> None:
    s.store._free.pop()


def free_twice(s: Simulation) -> None:
    s.store._free.append(next(iter(s.store._kept)))


def give_up_a_written_one(s: Simulation) -> None:
    slot = next(slot for slot in s.store._writers if slot in s.store._kept)
    s.store._lru[slot] = s.store._kept[slot]


def evict_the_node_alone(s: Simulation) -> None:
    node = next(iter(s.tree.held))
    node.parent.children.pop(node.key.child_key(s.tree.page_size))


def lose_the_record(s: Simulation) -> None:
    s.tree.held.pop(next(iter(s.tree.held)))


def shift(s: Simulation) -> None:
    tails = next(iter(s.tree.held.values()))
    tails.by_offset = {offset + 1: found for offset, found in tails.by_offset.items()}


def too_many_tokens(s: Simulation) -> None:
    next(iter(s.store._kept.values())).tokens = [0] * 5


def hold_twice(s: Simulation) -> None:
    live = next(iter(s.store._live.values()))
    assert live.slot is not None
    live.previous = (0, live.slot, None)


def another_tenant(s: Simulation) -> None:
    next(iter(s.store._kept.values())).namespace = "b"


def an_older_generation(s: Simulation) -> None:
    next(iter(s.store._kept.values())).generation -= 1


def row_of(s: Simulation) -> torch.Tensor:
    return s.store.pool.selections[1, next(iter(s.store._kept)), 0]


def the_future(s: Simulation) -> None:
    row_of(s)[-1] = 10_000


def twice_the_same(s: Simulation) -> None:
    row = row_of(s)
    row[1] = row[0]


def a_gap(s: Simulation) -> None:
    row = row_of(s)
    row[0] = -1


CORRUPTIONS: list[tuple[Callable[[Simulation], None], str]] = [
    (leak, "conservation"),
    (free_twice, "conservation"),
    (give_up_a_written_one, "conservation"),
    (evict_the_node_alone, "lifetime"),
    (lose_the_record, "lifetime"),
    (shift, "lifetime"),
    (too_many_tokens, "lifetime"),
    (hold_twice, "references"),
    (another_tenant, "namespace"),
    (an_older_generation, "generation"),
    (the_future, "positions"),
    (twice_the_same, "positions"),
    (a_gap, "positions"),
]


@pytest.mark.parametrize(("corrupt", "name"), CORRUPTIONS, ids=[corrupt.__name__ for corrupt, _ in CORRUPTIONS])
def test_a_seeded_corruption_is_named(corrupt: Callable[[Simulation], None], name: str) -> None:
    simulation = lived()
    corrupt(simulation)
    with pytest.raises(InvariantError, match=name):
        check(simulation.store, simulation.tree.nodes())


def test_a_request_that_was_never_ended_is_found_at_idle() -> None:
    simulation = lived()
    check(simulation.store, simulation.tree.nodes())
    with pytest.raises(InvariantError, match="references: 1 requests hold slots at idle"):
        check(simulation.store, simulation.tree.nodes(), idle=True)


def test_a_stale_selection_is_found_by_the_plain_model() -> None:
    """The state machine's own oracle: a store that hands out what belongs to other weights is caught."""
    simulation = Simulation(slots=6, settled=1.0)
    first = simulation.admit(PROMPT, None, 64)
    assert first is not None
    simulation.finish(first)
    simulation.weights += 1  # without forgetting
    with pytest.raises(AssertionError, match="a selection of other tokens was served"):
        simulation.admit(PROMPT, None, 64)
