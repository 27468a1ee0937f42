"""Jobs shared among engines that are idle."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Worker = TypeVar("Worker")


def side_by_side(jobs: Sequence[Job], workers: Sequence[Worker], work: Callable[[Job, Worker], None]) -> None:
    """Do every job on a worker that is idle, one job a worker at a time.

    After a failure or an interrupt no further job begins; those that run end first, and what failed is raised.
    """
    if len(workers) == 1 or len(jobs) < 2:
        for job in jobs:
            work(job, workers[0])
        return
    stopped = threading.Event()
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def take_and_do(job: Job) -> None:
        if stopped.is_set():
            return
        worker = idle.get()
        try:
            work(job, worker)
        except BaseException:
            stopped.set()
            raise
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        running = [pool.submit(take_and_do, job) for job in jobs]
        try:
            for future in running:
                future.result()
        finally:
            stopped.set()
