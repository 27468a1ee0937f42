"""Runs one stage: starts sessions as the shape says, ends in good order."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from sgl_indexcache.loadtest.drive.gate import Gate
from sgl_indexcache.loadtest.drive.player import Player
from sgl_indexcache.loadtest.drive.shape import Level
from sgl_indexcache.loadtest.workload.plan import Session

_LEAD_S = 0.25
"""How long before its time a session is made, so that its first body is ready."""


class Driver:
    """Starts the sessions of one stage.

    begin, now  the stage's begin on the run's clock, and that clock
    sessions    most sessions, None for no limit
    duration    seconds after the stage's begin in which requests may be sent, None for no limit
    """

    def __init__(
        self, level: Level, source: Iterator[Session], player: Player, gate: Gate, begin: float,
        now: Callable[[], float], seed: int, sessions: int | None, duration: float | None, speed: float = 1.0,
    ) -> None:  # fmt: skip
        self._level, self._source, self._player, self._gate = level, source, player, gate
        self._begin, self._now, self._seed = begin, now, seed
        self._left, self._duration, self._speed = sessions, duration, speed
        self._tasks: set[asyncio.Task[None]] = set()
        self.started = 0

    async def run(self) -> None:
        """Play until a limit is met or the sessions end, and until the last answer came.

        Raises:
            whatever a session raised that is no failure of the server: a defect, or a refused workload.
        """
        timer = asyncio.create_task(self._end_in_time()) if self._duration is not None else None
        feeding = asyncio.create_task(self._closed() if self._level.kind == "closed" else self._open())
        try:
            await feeding
            while self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
                self._raise_of_done()
        finally:
            self._gate.stop()
            pending = [task for task in (timer, feeding, *self._tasks) if task is not None and not task.done()]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _end_in_time(self) -> None:
        assert self._duration is not None
        await self._gate.sleep(self._begin + self._duration - self._now())
        self._gate.stop()

    def _next(self) -> Session | None:
        if self._left == 0 or self._gate.stopped:
            return None
        session = next(self._source, None)
        if session is not None:
            self.started += 1
            if self._left is not None:
                self._left -= 1
        return session

    async def _closed(self) -> None:
        for start in self._level.worker_starts():
            self._spawn(self._work(self._begin + start))
        await asyncio.sleep(0)

    async def _work(self, start: float) -> None:
        if not await self._gate.sleep(start - self._now()):
            return
        intended = start
        while (session := self._next()) is not None:
            await self._player.play(session, intended)
            # The next session of this place is wanted as soon as the one before is over.
            intended = self._now()
            await asyncio.sleep(0)  # a session that sends nothing must not keep the loop

    async def _open(self) -> None:
        times = self._level.arrival_times(self._seed) if self._level.kind == "open" else None
        while (session := self._next()) is not None:
            at = next(times) if times is not None else (session.start_s or 0.0) / self._speed
            start = self._begin + at
            if not await self._gate.sleep(start - _LEAD_S - self._now()):
                return
            self._spawn(self._player.play(session, start))
            self._raise_of_done()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    def _raise_of_done(self) -> None:
        done = {task for task in self._tasks if task.done()}
        self._tasks -= done
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
