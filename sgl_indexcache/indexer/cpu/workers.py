"""Threads of one torch thread each, between which long work on the CPU is divided.

torch divides every single operation between its threads, and at its end they wait for each other: beside a busy
neighbour thousands of short operations so take several times as long. Here each thread runs whole pieces of work,
and takes the next one when it is done.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def share(pieces: Iterable[Piece], work: Callable[[], Callable[[Piece], None]], workers: int) -> None:
    """Call what `work()` returns for every piece, in up to `workers` threads.

    `work` is called once a thread, for what a thread needs of its own. Pieces are asked for by one thread at a time, in
    their order. With one worker the calling thread does it all, with torch's usual threads. An exception ends the work:
    it is raised here once no thread works any more.
    """
    if workers <= 1:
        run = work()
        for piece in pieces:
            run(piece)
        return
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    queue = _Queue(iter(pieces))

    def drain() -> None:
        # Both are a thread's own in torch.
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), queue:
            run = work()
            for piece in queue:
                run(piece)

    with queue:
        tasks = [_threads(workers).submit(copy_context().run, drain) for _ in range(workers)]
        wait(tasks)
    for task in tasks:
        task.result()


class _Queue(Iterator[Piece]):
    """An iterator for several threads; as a context manager it ends for all of them when one leaves with an error."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._lock = threading.Lock()
        self._failed = False

    def __next__(self) -> Piece:
        with self._lock:
            if self._failed:
                raise StopIteration
            return next(self._pieces)

    def __enter__(self) -> "_Queue[Piece]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._failed = True


@functools.cache
def _threads(workers: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(workers, "indexcache-cpu")
    usual = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def start() -> None:
        # A thread's first look at the number replaces it by torch's latest.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    for _ in range(workers):
        pool.submit(start)
    started.wait()
    # The number is each thread's own in OpenMP and MKL, but torch gives the last one to threads that come later.
    torch.set_num_threads(usual)
    return pool


# A forked process has none of the threads.
os.register_at_fork(after_in_child=_threads.cache_clear)
