"""Patterns to losses: side by side, through the journal, and what goes wrong."""

import threading
from pathlib import Path

import pytest

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search.errors import SearchError
from sgl_indexcache.search.evaluate import Evaluation, Evaluator
from sgl_indexcache.search.journal import Journal

A, B, C = Pattern("FFS"), Pattern("FSF"), Pattern("FSS")
LOSSES = {A: 1.0, B: 2.0, C: 3.0}


class Worker:
    def __init__(self, together: threading.Barrier | None = None, broken: bool = False) -> None:
        self.together, self.broken, self.seen = together, broken, []

    def evaluate(self, pattern: Pattern) -> Evaluation:
        self.seen.append(pattern)
        if self.together:
            self.together.wait(timeout=20)
        if self.broken:
            raise SearchError("the engine does not answer")
        return Evaluation(LOSSES.get(pattern, float("nan")), [], 0.0)


def test_candidates_are_measured_side_by_side_and_come_back_in_order(tmp_path: Path) -> None:
    barrier = threading.Barrier(3)  # nobody passes before all three are at work
    workers = [Worker(barrier) for _ in range(3)]
    with Journal(tmp_path / "j", {}) as journal:
        assert Evaluator(workers, journal)([C, A, B]) == [3.0, 1.0, 2.0]
    assert [len(worker.seen) for worker in workers] == [1, 1, 1]


def test_nothing_is_measured_twice(tmp_path: Path) -> None:
    worker, told = Worker(), []
    with Journal(tmp_path / "j", {}) as journal:
        evaluate = Evaluator([worker], journal, lambda found, known: told.append((found.loss, known)))
        assert evaluate([A, B]) == [1.0, 2.0]
        assert evaluate([B, C, C]) == [2.0, 3.0, 3.0]
    assert worker.seen == [A, B, C]
    assert told == [(1.0, False), (2.0, False), (2.0, True), (3.0, False)]
    with Journal(tmp_path / "j", {}) as journal:
        assert Evaluator([], journal)([C]) == [3.0]


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}) as journal:
        evaluate = Evaluator([Worker(), Worker(broken=True)], journal)
        with pytest.raises(SearchError, match="does not answer"):
            evaluate([A, B])
        assert len(journal) == 1


def test_a_loss_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", {}) as journal, pytest.raises(SearchError, match="the loss of FFF is nan"):
        Evaluator([Worker()], journal)([Pattern("FFF")])
