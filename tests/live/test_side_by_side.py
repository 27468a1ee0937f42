"""Jobs on idle workers: side by side, one job a worker, and none after a failure."""

import threading

import pytest

from sgl_indexcache.live.side_by_side import side_by_side


def test_every_job_is_done_and_no_worker_has_two_at_once() -> None:
    barrier, busy, done = threading.Barrier(3), set(), []

    def work(job: int, worker: str) -> None:
        assert worker not in busy
        busy.add(worker)
        if job < 3:
            barrier.wait(timeout=20)  # nobody passes before all three are at work
        done.append(job)
        busy.remove(worker)

    side_by_side(range(7), ["a", "b", "c"], work)
    assert sorted(done) == list(range(7))


@pytest.mark.parametrize("workers", [["a"], ["a", "b"]])
def test_after_a_failure_no_further_job_begins(workers: list[str]) -> None:
    begun = []

    def work(job: int, worker: str) -> None:
        begun.append(job)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        side_by_side(range(50), workers, work)
    assert len(begun) <= len(workers)


def test_nothing_to_do_needs_no_worker() -> None:
    side_by_side([], [], lambda job, worker: None)
