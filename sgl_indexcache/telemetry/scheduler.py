"""Telemetry of one scheduler: what it does after a step, and what it must never do, which is to disturb it."""

import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sgl_indexcache.telemetry import events
from sgl_indexcache.telemetry.events import Fallback
from sgl_indexcache.telemetry.readings import Reader, Sources, spelled
from sgl_indexcache.telemetry.two_level import TwoLevelWork

if TYPE_CHECKING:  # importing it too early would cost SGLang its own metrics, see there
    from sgl_indexcache.telemetry.prometheus import Exporter

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""Metrics are brought up to date at most once in this time; between, a step costs one look at the clock."""
PER_STEP = 6
"""Readings that one step takes and writes: all of them in one step would hold it up for 50 to 200 us."""


class Telemetry:
    """Made once a scheduler; `step` is called after each of its steps, `idle` when there is none to do.

    sources   called for what is there at that moment
    exporter  None where this scheduler exports no metrics
    """

    def __init__(
        self,
        sources: Callable[[], Sources],
        exporter: "Exporter | None",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sources = sources
        self._exporter = exporter
        self._clock = clock
        self._due = clock()
        self._reader = Reader()
        self._turn: Iterator[None] | None = None
        self._fallbacks: dict[int, int] = {}
        self._broken = False

    def step(self) -> None:
        """Go on with the update that is under way, or begin one if it is time to. Raises nothing."""
        self._go_on(PER_STEP)

    def idle(self) -> None:
        """The same, and end it: nobody waits."""
        self._go_on(None)

    @property
    def updating(self) -> bool:
        """Whether an update is under way."""
        return self._turn is not None

    def _go_on(self, limit: int | None) -> None:
        if self._turn is None:
            now = self._clock()
            if now < self._due or self._broken:
                return
            self._due = now + INTERVAL_S
            self._turn = self._update()
        try:
            if limit is None or sum(1 for _ in islice(self._turn, limit)) < limit:
                for _ in self._turn:
                    pass
                self._turn = None
        except Exception:  # whatever it is, requests are served on; the first defect ends telemetry
            self._turn, self._broken = None, True
            logger.exception("telemetry has ended after a defect; serving goes on")

    def _update(self) -> Iterator[None]:
        """Write the metrics and emit fallbacks, one at a time."""
        sources = self._sources()
        if self._exporter is not None:
            for key, value in self._reader.walk(sources):
                self._exporter.write(key, value)
                yield
        if events.connected():
            two_level = None if sources.backend is None else sources.backend.two_level
            if two_level is not None:
                yield from self._emit_fallbacks(two_level.work)

    def snapshot(self) -> dict[str, Any]:
        """For /server_info: `metrics`, the readings of this moment as spelled in /metrics, and `events`."""
        sources = self._sources()
        publisher = sources.publisher
        return {
            "metrics": spelled(self._reader.read(sources)),
            "exported": self._exporter is not None and not self._broken,
            "events": None if publisher is None else publisher.snapshot(),
        }

    def _emit_fallbacks(self, work: TwoLevelWork) -> Iterator[None]:
        for layer, recall in tuple(work.layers.items()):
            more = recall.fallbacks - self._fallbacks.get(layer, 0)
            self._fallbacks[layer] = recall.fallbacks
            if more > 0:
                events.emit(Fallback(layer=layer, reason="recall", turns=more))
                yield
