"""What is kept, what is found, and what is given up."""

from random import Random

import pytest
import torch

from sgl_indexcache.store import IndexStore, Pool, RequestRows, Tail, Tails
from sgl_indexcache.store.pool import slot_bytes
from sgl_indexcache.store.slots import TAILS_PER_PREFIX
from sgl_indexcache.store.tables import Row

from .simulation import LAYERS, PAGE, TOPK, Simulation

PROMPT = list(range(100, 111))


def done(simulation: Simulation, tokens: list[int], tenant: str | None = None, more: tuple[int, ...] = ()) -> None:
    request = simulation.admit(tokens, tenant, 64)
    assert request is not None
    for token in more:
        simulation.decode([request], token)
    simulation.finish(request)
    simulation.check()


def known(simulation: Simulation, tokens: list[int], tenant: str | None = None) -> int:
    """Rows, of all layers, that a prompt takes from snapshots."""
    before = simulation.served["known"]
    done(simulation, tokens, tenant)
    return simulation.served["known"] - before


def test_a_repeat_computes_no_selection_of_its_tail() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT)
    assert known(simulation, PROMPT) == 3 * len(LAYERS)


def test_a_prompt_of_whole_pages_has_a_page_as_its_tail() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, [*PROMPT, 5])
    assert known(simulation, [*PROMPT, 5]) == PAGE * len(LAYERS)


def test_the_next_turn_takes_decoded_rows() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT, more=(1, 2, 3, 4, 5, 6))
    # 17 tokens have KV, 16 are cached: the row of the 17th is known.
    assert known(simulation, [*PROMPT, 1, 2, 3, 4, 5, 6, 50, 51]) == len(LAYERS)


def test_the_prompts_tail_outlives_a_long_answer() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT, more=tuple(range(9)))
    assert known(simulation, PROMPT) == 3 * len(LAYERS)


def test_a_common_beginning_of_the_tail_is_enough() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT)
    assert known(simulation, [*PROMPT[:-1], 7, 7]) == 2 * len(LAYERS)


def test_the_same_salt_hits_and_another_misses() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT, "a")
    assert known(simulation, PROMPT, "b") == known(simulation, PROMPT, None) == 0
    assert known(simulation, PROMPT, "a") == 3 * len(LAYERS)


def test_an_unsettled_row_is_computed_unless_the_prefill_is_the_same() -> None:
    simulation = Simulation(slots=8, settled=0.0)
    done(simulation, PROMPT)
    # The first prefill had 11 rows, the repeat has 3: other products, other rounding.
    assert known(simulation, PROMPT) == 0
    assert known(simulation, PROMPT) == 3 * len(LAYERS)
    assert known(simulation, [*PROMPT, 1]) == 0


def test_a_prefill_beside_an_untracked_request_is_not_alone() -> None:
    store = small(4)
    rows = RequestRows(1, "r1", 4, 7, prefill=True)
    for requests, key in ((2, None), (1, (4, 7, None)), (None, (4, 7, None))):
        store.begin([rows], requests)
        tails = Tails()
        assert store.keep(1, "r1", tails, 4, 4, [1, 2, 3], None)
        assert next(iter(tails)).key == key
        store.end(1)


def test_a_split_node_keeps_its_tails_on_both_sides() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT, more=tuple(range(8)))
    done(simulation, [*PROMPT[:5], 9, 9, 9, 9])
    assert known(simulation, PROMPT) == 3 * len(LAYERS)


def test_a_flush_and_other_weights_forget_everything() -> None:
    simulation = Simulation(slots=8, settled=1.0)
    done(simulation, PROMPT)
    simulation.update_weights()
    assert simulation.store.snapshot()["held"] == 0
    assert known(simulation, PROMPT) == 0
    assert known(simulation, PROMPT) > 0
    simulation.flush()
    assert simulation.store.snapshot()["held"] == 0
    assert known(simulation, PROMPT) == 0


def test_the_least_recently_used_is_given_up_first() -> None:
    simulation = Simulation(slots=3, settled=1.0)
    for base in (100, 200, 100):
        done(simulation, [base + n for n in range(7)])
    done(simulation, [300 + n for n in range(7)])
    done(simulation, [400 + n for n in range(7)])
    assert simulation.store.snapshot()["evicted"] > 0
    assert known(simulation, [200 + n for n in range(7)]) == 0


def test_finishing_as_overlap_scheduling_does_keeps_a_full_page() -> None:
    """The row that follows the last one opens a page; the page before must still be there."""
    simulation = Simulation(slots=8, settled=1.0)
    request = simulation.admit([*PROMPT, 1], None, 64)
    assert request is not None
    simulation.finish(request, overlap=True)
    simulation.check()
    assert known(simulation, [*PROMPT, 1]) == PAGE * len(LAYERS)


def small(slots: int) -> IndexStore:
    pool = Pool(slots * slot_bytes(len(LAYERS), PAGE, TOPK), len(LAYERS), PAGE, TOPK)
    return IndexStore(pool, LAYERS, 8, 0.5)


def test_more_requests_than_slots_are_left_untracked() -> None:
    store = small(2)
    store.begin([RequestRows(n, f"r{n}", 0, 3, prefill=True) for n in (1, 2, 3)])
    assert store.snapshot()["untracked"] == 1
    assert store._tables.row(3) == Row()
    for n in (1, 2, 3):
        store.end(n)
    assert store.snapshot()["free"] == 2


def test_no_slot_is_given_away_that_the_same_forward_reads() -> None:
    store = small(1)
    store.begin([RequestRows(1, "r1", 4, 7, prefill=True)])
    tails = Tails()
    assert store.keep(1, "r1", tails, 4, 4, [1, 2, 3], None)
    store.end(1)
    found = list(tails.at(4))
    store.begin([RequestRows(2, "r2", 4, 7, True, [1, 2, 3], found)])
    assert store._tables.row(2).read_slot == found[0].slot
    assert store._tables.row(2).write_slot == -1


def test_rows_that_do_not_follow_on_are_given_up_and_counted() -> None:
    store = small(4)
    store.begin([RequestRows(1, "r1", 0, 3, prefill=True)])
    store.begin([RequestRows(1, "r2", 8, 10, prefill=True)])
    assert store.snapshot()["broken"] == 1
    assert not store.keep(1, "r1", Tails(), 4, 0, [1], None)
    store.begin([RequestRows(1, "r2", 11, 12)])
    assert store.snapshot()["broken"] == 2
    assert not store.keep(1, "r2", Tails(), 8, 8, [1, 2, 3, 4], None)


def test_continuations_of_one_prefix_are_bounded() -> None:
    store = small(40)
    tails = Tails()
    for number in range(30):
        store.begin([RequestRows(1, number, 4, 7, prefill=True)])
        assert store.keep(1, number, tails, 4, 4, [number, 0, 0], None)
        store.end(1)
    assert [tail.tokens[0] for tail in tails] == list(range(30 - TAILS_PER_PREFIX, 30))


def test_another_pattern_starts_afresh() -> None:
    store = small(4)
    store.begin([RequestRows(1, "r1", 4, 7, prefill=True)])
    store.keep(1, "r1", Tails(), 4, 4, [1], None)
    store.end(1)
    store.configure((0, 1, 2, 3))
    assert store.snapshot()["slots"] == store.snapshot()["free"] == 2
    assert store.fits(8)
    assert not store.fits(9)
    store.lay_out(torch.tensor([1]), torch.tensor([5]))
    assert store.known_rows(3) is None


def test_tails_travel_with_their_part_of_a_split_node() -> None:
    tails = Tails()
    for offset in (4, 8, 12):
        tails.add(Tail(offset, [1], None, 0, None, 0, tails, offset))
    head = tails.split(8)
    assert {tail.slot: tail.offset for tail in head} == {4: 4, 8: 8}
    assert {tail.slot: tail.offset for tail in tails} == {12: 4}
    assert all(tail.holder is head for tail in head)


@pytest.mark.parametrize("settled", [0.8, None])
@pytest.mark.parametrize("seed", range(4))
def test_two_ranks_that_see_the_same_requests_decide_the_same(seed: int, settled: float | None) -> None:
    """Tensor parallelism: every rank has a tree and a store of its own, and no word passes between them."""
    ranks = [Simulation(4, settled), Simulation(4, settled)]
    for rank, simulation in enumerate(ranks):
        simulation.draw = Random(7)
        draw = Random(seed)
        texts = [[draw.randrange(2) for _ in range(draw.randint(5, 30))] for _ in range(4)]
        # The very same prefill comes up less often.
        for _ in range(120 if settled else 500):
            kind = draw.randrange(6)
            if kind < 2:
                text = draw.choice(texts)
                tokens = text[:24] + [draw.randrange(2) for _ in range(draw.choice([0, 0, 1, 8]))]
                simulation.admit(tokens, draw.choice([None, "a"]), draw.choice([PAGE, 64]))
            elif simulation.running and kind == 2:
                for _ in range(draw.randint(1, 5)):
                    simulation.decode(simulation.running, draw.randrange(2))
            elif simulation.running:
                request = draw.choice(simulation.running)
                texts.append(list(request.tokens))
                simulation.finish(request, insert=draw.random() < 0.8)
        assert simulation.served["known"] > 0, rank
    assert ranks[0].decisions == ranks[1].decisions
    assert ranks[0].store.snapshot() == ranks[1].store.snapshot()
