"""The one place that says whether a request may still be sent, and wakes sleepers when it may not."""

import asyncio


class Gate:
    """Limits of a stage. Times are seconds on the run's clock.

    requests   most requests, None for no limit
    in_flight  most at a time; who waits for a place keeps its intended time
    """

    def __init__(self, requests: int | None, in_flight: int, warmup_requests: int, warmup_until: float) -> None:
        self._left = requests
        self._places = asyncio.Semaphore(in_flight)
        self._warmup_left = warmup_requests
        self._warmup_until = warmup_until
        self._sleepers: set[asyncio.Future[None]] = set()
        self.stopped = False

    def stop(self) -> None:
        """Send nothing more; what is under way may end."""
        self.stopped = True
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)

    async def sleep(self, seconds: float) -> bool:
        """Sleep, or until stopped; returns whether requests may still be sent."""
        if seconds > 0 and not self.stopped:
            loop = asyncio.get_running_loop()
            sleeper: asyncio.Future[None] = loop.create_future()
            timer = loop.call_later(seconds, _wake, sleeper)
            self._sleepers.add(sleeper)
            try:
                await sleeper
            finally:
                timer.cancel()
                self._sleepers.discard(sleeper)
        return not self.stopped

    async def enter(self) -> bool:
        """Wait for a place and take one request off the limit; False when nothing more may be sent."""
        await self._places.acquire()
        if self.stopped or self._left == 0:
            self._places.release()
            self.stop()
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        self._places.release()

    def is_warmup(self, intended: float) -> bool:
        """Whether the request about to be sent is left out of the figures; call it once a request."""
        if self._warmup_left > 0:
            self._warmup_left -= 1
            return True
        return intended < self._warmup_until


def _wake(sleeper: "asyncio.Future[None]") -> None:
    if not sleeper.done():
        sleeper.set_result(None)
