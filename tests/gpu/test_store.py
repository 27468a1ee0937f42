"""On a GPU: the index store serves repeats without scoring them, and the bits stay those of the engine without it.

Two engines (conftest.py); GPU_TEST_STORE_OURS=1 adds two with our own indexer kernel, KV slots and prefill graphs.
Needs CUDA and SGLang 0.5.17 with its kernels; run by `make test-gpu`.
"""

from concurrent.futures import Future
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)

PAGE = 64
# Those of conftest.py and record_store.py. The longest prompt nearly fills the pool of KV slots.
LENGTHS, TIMES = (3000, 10_000, 70_000), 4
FULL = 3
Answers = dict[str, Any]


@pytest.fixture(params=["store_engines", "store_engines_ours"])
def both(request: pytest.FixtureRequest) -> tuple[Answers, Answers]:
    """With the store, and without."""
    group: dict[str, Future[Answers]] = request.getfixturevalue(request.param)
    with_store, without = group.values()
    return with_store.result(), without.result()


@pytest.fixture
def on(both: tuple[Answers, Answers]) -> Answers:
    return both[0]


def test_the_same_bits_as_without_it(both: tuple[Answers, Answers]) -> None:
    on, off = both
    assert off["state"]["store"] is None
    assert set(off["reused"].values()) == {0}
    assert list(on["answers"]) == list(off["answers"])
    assert [name for name in on["answers"] if on["answers"][name] != off["answers"][name]] == []


@pytest.mark.parametrize("length", LENGTHS)
def test_a_prompt_is_served_from_the_third_time_on(length: int, on: Answers) -> None:
    rows = [on["reused"][f"repeat.{length}.{time}"] for time in range(TIMES)]
    tail = (length - 1) % PAGE + 1
    assert rows == [0, 0] + [FULL * tail] * (TIMES - 2)
    assert on["answers"][f"repeat.{length}.2"][0]["cached"] == length - tail


def test_a_conversation_goes_on(on: Answers) -> None:
    for turn in range(2):
        rows = [on["reused"][f"turn.{turn}.{time}"] for time in range(3)]
        assert rows[:2] == [0, 0]
        assert 0 < rows[2] <= FULL * PAGE


def test_the_same_salt_hits_and_another_misses(on: Answers) -> None:
    rows = FULL * ((LENGTHS[0] - 1) % PAGE + 1)
    assert [on["reused"][f"salt.a.{time}"] for time in range(3)] == [0, 0, rows]
    assert on["reused"]["salt.b"] == 0
    assert on["reused"]["salt.a.again"] == rows


def test_two_at_once_are_scored(on: Answers) -> None:
    assert on["reused"]["pair"] == 0


def test_a_flush_forgets(on: Answers) -> None:
    rows = FULL * ((LENGTHS[1] - 1) % PAGE + 1)
    assert [on["reused"][f"flushed.{time}"] for time in range(3)] == [0, 0, rows]


def test_an_evicted_prefix_takes_its_snapshot_along(on: Answers) -> None:
    assert on["answers"]["evicted.0"][0]["cached"] < 30_000 - PAGE
    assert [on["reused"][f"evicted.{time}"] > 0 for time in range(3)] == [False, False, True]
    assert on["state"]["store"]["dropped"] > 0
    assert on["state"]["store"]["evicted"] > 0


def test_nothing_is_left_over(on: Answers) -> None:
    """Every look at /server_info checked the store's invariants; the last one follows a flush."""
    store = on["state"]["store"]
    assert store["free"] == store["slots"]
    assert store["held"] == store["live"] == store["requests"] == store["broken"] == 0
    assert store["hits"] > 0
