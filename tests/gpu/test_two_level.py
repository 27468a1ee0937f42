"""On a GPU: two-level scoring in a real engine. In layer 0 no earlier selection has changed what a row is selected by,
so that an engine with two-level scoring and one without select there by the same scores.

Three engines (conftest.py). Needs CUDA and SGLang 0.5.17 with its kernels; run by `make test-gpu`.
"""

import base64
import zlib
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch

from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.shortlist import Shortlist

pytestmark = pytest.mark.timeout(600)

# Those of conftest.py and record.py.
LENGTHS, EVERY, FULL, TOP_K, PAGE, CHUNK = (6000, 30_000), 7, 3, 2048, 64, 8192
SHORTLIST, GUARD = Shortlist(4096), Guard(0.0, 16)
FIRST = 4096 + PAGE
"""First position with a shortlist."""
STEPS_TOO_MANY = (0, 1, 2)
"""Decode steps beyond the last tokens of two requests: one is launched before it is known that a request is through."""
Answers = dict[str, Any]


@pytest.fixture(scope="module")
def answers(two_level_engines: dict[str, Future[Answers]]) -> dict[str, Answers]:
    return {name: found.result() for name, found in two_level_engines.items()}


def rows(answers: Answers, length: int) -> dict[int, set[int]]:
    """Selected positions in layer 0, by position of the row."""
    return {nth * EVERY: row for nth, row in enumerate(unpack(answers["selections"][str(length)][0]))}


def unpack(found: list[str]) -> list[set[int]]:
    unpacked = [np.frombuffer(zlib.decompress(base64.b64decode(row)), dtype=np.int32) for row in found]
    return [set(row[row >= 0].tolist()) for row in unpacked]


def counters(answers: Answers, length: int) -> dict[str, Any]:
    found: dict[str, Any] = answers["selections"][str(length)][1]
    return found


def test_the_shortlist_begins_where_it_says() -> None:
    assert SHORTLIST.lists_all(FIRST // PAGE - 1, TOP_K)
    assert not SHORTLIST.lists_all(FIRST // PAGE, TOP_K)


@pytest.mark.parametrize("length", LENGTHS)
def test_selections_are_the_best_of_listed_pages(answers: dict[str, Answers], length: int) -> None:
    """Before the first shortlist they are the exact ones; after it they hold as many, of the row's own past."""
    exact, found = rows(answers["exact"], length), rows(answers["two-level"], length)
    differing = 0
    for position, chosen in found.items():
        assert len(chosen) == min(TOP_K, position + 1)
        assert max(chosen) <= position
        if position < FIRST:
            # fp8 products round alike, but rows that tie to the last bit may have been summed in another order.
            assert len(chosen & exact[position]) >= len(chosen) - 2
        differing += chosen != exact[position]
    assert differing > 0
    # Pages without a shared one are rare at a quarter: what is found of an exact selection is what its pages hold.
    late = [p for p in found if p >= FIRST]
    recall = sum(len(found[p] & exact[p]) for p in late) / (TOP_K * len(late))
    assert 0.2 < recall < 1


def test_the_guard_measures_the_recall_of_its_rows(answers: dict[str, Answers]) -> None:
    """Of the sampled rows that were recorded too, and of all sampled rows, the recall is nearly the same."""
    length = LENGTHS[-1]
    exact, found = rows(answers["exact"], length), rows(answers["two-level"], length)
    positions = torch.arange(FIRST, length)
    sampled = positions[GUARD.sampled(positions)].tolist()
    seen = [p for p in sampled if p in found]
    recall = sum(len(found[p] & exact[p]) for p in seen) / (TOP_K * len(seen))
    before, after = counters(answers["two-level"], LENGTHS[0]), counters(answers["two-level"], length)
    first = torch.arange(FIRST, LENGTHS[0])
    assert 0 <= before["sampled_rows"]["0"] - int(GUARD.sampled(first).sum()) <= 1
    steps = after["rows"] - before["rows"] - FULL * (length - FIRST)
    assert steps // FULL in STEPS_TOO_MANY
    assert 0 <= after["sampled_rows"]["0"] - before["sampled_rows"]["0"] - len(sampled) <= steps // FULL
    counted = (
        after["recall"]["0"] * after["sampled_rows"]["0"] - before["recall"]["0"] * before["sampled_rows"]["0"]
    ) / (after["sampled_rows"]["0"] - before["sampled_rows"]["0"])
    assert abs(counted - recall) < 0.03
    assert set(after["recall"]) == {"0", "1", "3"}


def test_work_is_counted_row_by_row(answers: dict[str, Answers]) -> None:
    before, after = counters(answers["two-level"], LENGTHS[0]), counters(answers["two-level"], LENGTHS[1])
    length = LENGTHS[1]
    listed = torch.arange(FIRST, length)
    steps = (after["rows"] - before["rows"]) // FULL - len(listed)
    assert steps in STEPS_TOO_MANY
    own = FULL * int((4096 + listed % PAGE + 1).sum())
    # The chunk in which lists begin is two-level scoring's as a whole.
    exact = FULL * FIRST * (FIRST + 1) // 2
    # A decoded row scores its list and up to a page.
    decoded = after["keys_scored"] - before["keys_scored"] - own - exact
    assert FULL * steps * 4096 < decoded + 1 <= FULL * steps * (4096 + PAGE) + 1
    assert after["fallbacks"] == dict.fromkeys(after["fallbacks"], 0)


def test_below_the_floor_chunks_are_scored_exactly(answers: dict[str, Answers]) -> None:
    found = counters(answers["guarded"], LENGTHS[-1])
    assert all(count > 0 for count in found["fallbacks"].values())
    # The first chunk has nothing to judge by; what follows is exact.
    chosen, exact = rows(answers["guarded"], LENGTHS[-1]), rows(answers["exact"], LENGTHS[-1])
    late = [p for p in chosen if p >= CHUNK]
    recall = sum(len(chosen[p] & exact[p]) for p in late) / (TOP_K * len(late))
    assert recall > 0.99


def test_decoded_rows_look_into_their_lists_alone(answers: dict[str, Answers]) -> None:
    """64 pages and a row's own; exact selections of 30,000 keys lie in many more."""
    length, most = LENGTHS[-1], 4096 // PAGE + 1
    found: dict[str, list[set[int]]] = {}
    for name in ("exact", "two-level", "guarded"):
        before, selections, after = answers[name]["decoded"][str(length)]
        found[name] = unpack(selections)
        for step, row in enumerate(found[name]):
            assert len(row) == TOP_K
            assert max(row) <= length + step
        if name == "two-level":
            decoded = after["rows"] - before["rows"] - FULL * (length - FIRST)
            assert decoded // FULL - len(selections) in STEPS_TOO_MANY
    assert len(found["exact"]) > 4
    pages = {name: [len({position // PAGE for position in row}) for row in rows] for name, rows in found.items()}
    assert max(pages["two-level"]) <= most
    assert min(pages["exact"]) > most
    # The guard has seen enough of this context.
    assert min(pages["guarded"]) > most


def test_warm_turns_repeats_and_decoded_text(answers: dict[str, Answers]) -> None:
    """Every question of record.py is answered, with numbers, from the cache where there is one."""
    for name in ("two-level", "guarded"):
        for question, found in answers[name].items():
            if question.startswith(("cold", "warm", "repeat")):
                assert all(value <= 0 for entry in found for value in entry["log_probs"])
        assert answers[name]["warm.10000"][0]["cached"] >= 9984
    assert answers["two-level"]["state"]["two_level"]["rows"] > 0


def test_random_schedules_end(answers: dict[str, Answers]) -> None:
    schedules = answers["two-level"]["schedules"]
    assert schedules["wrong"] == 0
    assert schedules["finished"] > 100
