"""Python's garbage collector, kept from stopping the event loop for tens of milliseconds at any moment."""

import asyncio
import gc

_EVERY_S = 1.0
_FULL_EVERY = 60


class QuietCollector:
    """While entered, `run` collects: young objects once a second, all of them once a minute.

    With thousands of streams the automatic collection of all objects takes 20 ms, and every time stamp taken
    after it is late by that. What existed at the entry is left out altogether until the exit.
    """

    def __enter__(self) -> "QuietCollector":
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *_: object) -> None:
        gc.enable()
        gc.unfreeze()

    async def run(self) -> None:
        """Collect until cancelled."""
        count = 0
        while True:
            await asyncio.sleep(_EVERY_S)
            count += 1
            gc.collect(2 if count % _FULL_EVERY == 0 else 1)
