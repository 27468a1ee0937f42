"""The store that serves the very same prefill and nothing else."""

from typing import Any

import pytest
import torch

from sgl_indexcache.store import Pool, RequestRows, Tail, Tails, WholePrefillStore
from sgl_indexcache.store.check import InvariantError, check
from sgl_indexcache.store.pool import slot_bytes

from .simulation import LAYERS, PAGE, TOPK, Simulation
from .test_store import done, known

PROMPT = list(range(100, 111))


def test_the_third_time_is_served_and_every_time_after() -> None:
    simulation = Simulation(8, settled=None)
    counts = [known(simulation, PROMPT) for _ in range(5)]
    # The first prefill had 11 rows, so the second, of 3, is the first of its kind.
    assert counts == [0, 0, 6, 6, 6]
    assert simulation.store.snapshot()["kept"] == 1, "a prefill that reads writes nothing"


def test_other_prefills_are_not() -> None:
    simulation = Simulation(8, settled=None)
    for _ in range(2):
        done(simulation, PROMPT)
    for other in ([*PROMPT, 1], PROMPT[:-1], [*PROMPT[:-1], 7]):
        assert known(simulation, other) == 0
    assert known(simulation, PROMPT, "a") == 0
    assert known(simulation, PROMPT) == 3 * len(LAYERS)


def test_prefills_of_the_same_prefix_stand_side_by_side() -> None:
    simulation = Simulation(8, settled=None)
    for _ in range(2):
        done(simulation, PROMPT)
        done(simulation, PROMPT[:-1])
    assert known(simulation, PROMPT) == 3 * len(LAYERS)
    assert known(simulation, PROMPT[:-1]) == 2 * len(LAYERS)


def test_decoded_rows_are_no_part_of_it() -> None:
    simulation = Simulation(8, settled=None)
    done(simulation, PROMPT)
    done(simulation, PROMPT, more=(1,))
    assert [list(tail.tokens) for tails in simulation.tree.held.values() for tail in tails] == [PROMPT[8:]]
    assert known(simulation, [*PROMPT, 1]) == 0
    assert known(simulation, PROMPT) == 3 * len(LAYERS)


def test_slots_are_taken_for_what_may_be_read_alone() -> None:
    store = small(2)
    cold, chunk, short = rows(0, 11), rows(4, 10), rows(0, 3)
    for one in (cold, chunk, short, RequestRows(1, "r", 4, 7), rows(4, 7, beside=True)):
        store.begin([one], 2 if one.kind == "beside" else None)
        assert store.snapshot()["free"] == 2
        assert take(store, one) is None
    store.begin([rows(4, 7)])
    assert store.snapshot()["live"] == 1


def rows(start: int, end: int, *, beside: bool = False, **more: Any) -> RequestRows:
    return RequestRows(1, "r", start, end, prefill=True, kind="beside" if beside else None, **more)


def small(slots: int) -> WholePrefillStore:
    return WholePrefillStore(Pool(slots * slot_bytes(len(LAYERS), PAGE, TOPK), len(LAYERS), PAGE, TOPK), LAYERS)


def take(store: WholePrefillStore, one: RequestRows) -> Any:
    return store.take([one.end], [one.end - one.start])


def run(store: WholePrefillStore, one: RequestRows, layers: tuple[int, ...] = LAYERS) -> Tails:
    """A prefill that writes these layers; returns what was kept of it."""
    store.begin([one])
    plan = take(store, one)
    assert plan is not None
    assert not plan.read
    for layer in layers:
        store.write(plan, layer, torch.full((one.end - one.start, TOPK), layer, dtype=torch.int32))
    tails = Tails()
    store.keep(1, "r", tails, 4, one.start, list(range(one.start, one.end)), None)
    store.end(1)
    return tails


def test_a_forward_that_skips_a_full_layer_leaves_nothing() -> None:
    store = small(2)
    assert not run(store, rows(4, 7), layers=LAYERS[:1])
    assert store.snapshot()["free"] == 2
    assert run(store, rows(4, 7))


def test_a_plan_is_for_the_forward_that_was_announced() -> None:
    store = small(2)
    for lengths, new in (([8], [3]), ([7], [4]), ([7, 7], [3, 3]), ([], [])):
        store.begin([rows(4, 7)])
        assert store.take(lengths, new) is None
        assert store.take([7], [3]) is None, "a plan is given once"


def test_a_prefill_of_another_kind_is_another_prefill() -> None:
    """For example one that SGLang runs in a graph, with rows of padding, and one that it does not."""
    store = small(2)
    found = list(run(store, rows(4, 7)))
    for kind, reads in ((None, True), ("other", False)):
        one = RequestRows(1, "r", 4, 7, prefill=True, tokens=[4, 5, 6], tails=found, kind=kind)
        store.begin([one])
        assert take(store, one).read is reads
        store.end(1)


def test_what_is_read_is_not_given_away() -> None:
    store = small(1)
    (found,) = run(store, rows(4, 7))
    one = rows(4, 7, tokens=[4, 5, 6], tails=[found])
    store.begin([one])
    assert take(store, one).slot == found.slot
    store.begin([RequestRows(2, "s", 8, 11, prefill=True)])
    assert store.snapshot()["evicted"] == 1


def test_no_slot_is_left() -> None:
    store = small(1)
    store.begin([rows(4, 7)])
    store.begin([RequestRows(2, "s", 4, 7, prefill=True)])
    assert store.snapshot()["untracked"] == 1
    assert store.take([7], [3]) is None


def test_decode_and_other_requests_leave_a_snapshot_in_peace() -> None:
    """With overlap scheduling the next forwards begin before the prefill's end is noticed."""
    store = small(2)
    store.begin([rows(4, 7)])
    plan = take(store, rows(4, 7))
    for layer in LAYERS:
        store.write(plan, layer, torch.zeros(3, TOPK, dtype=torch.int32))
    store.begin([], 1)
    store.begin([RequestRows(1, "r", 7, 8), RequestRows(2, "s", 4, 7, prefill=True)])
    assert store.keep(1, "r", Tails(), 4, 4, [4, 5, 6], None)


def test_other_weights_between_announcement_and_forward() -> None:
    store = small(2)
    store.begin([rows(4, 7)])
    store.forget()
    assert take(store, rows(4, 7)) is None


def test_the_check_takes_any_order_but_nothing_twice() -> None:
    simulation = Simulation(8, settled=None)
    for _ in range(2):
        done(simulation, PROMPT)
    (tail,) = (tail for tails in simulation.tree.held.values() for tail in tails)
    assert isinstance(tail, Tail)
    rows = simulation.store.pool.selections[0, tail.slot]
    rows[0] = torch.tensor([5, 0, 3])
    check(simulation.store, simulation.tree.nodes())
    for bad in ([5, 5, 3], [5, 0, 9]):
        rows[0] = torch.tensor(bad)
        with pytest.raises(InvariantError, match="positions"):
            check(simulation.store, simulation.tree.nodes())
