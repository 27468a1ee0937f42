"""Telemetry of one scheduler: what it does after a step, and what it must never do, which is to disturb it."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sgl_indexcache.telemetry import events
from sgl_indexcache.telemetry.events import Fallback
from sgl_indexcache.telemetry.readings import Reader, Sources, spelled

if TYPE_CHECKING:  # importing it too early would cost SGLang its own metrics, see there
    from sgl_indexcache.telemetry.prometheus import Exporter

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""Metrics are brought up to date at most once in this time; between, a step costs one look at the clock."""


class Telemetry:
    """Made once a scheduler; `step` is called after each of its steps, and when it is idle.

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
        self._fallbacks: dict[int, int] = {}
        self._broken = False

    def step(self) -> None:
        """Update the metrics and emit fallbacks if it is time to. Raises nothing: the first defect ends telemetry."""
        now = self._clock()
        if now < self._due or self._broken:
            return
        self._due = now + INTERVAL_S
        try:
            self.flush()
        except Exception:  # whatever it is, requests are served on
            self._broken = True
            logger.exception("telemetry has ended after a defect; serving goes on")

    def flush(self) -> None:
        """Update the metrics and emit fallbacks, now."""
        sources = self._sources()
        if self._exporter is not None:
            self._exporter.update(self._reader.read(sources))
        if events.connected():
            self._emit_fallbacks(getattr(getattr(sources.backend, "two_level", None), "work", None))

    def snapshot(self) -> dict[str, Any]:
        """For /server_info: `metrics`, the readings of this moment as spelled in /metrics, and `events`."""
        sources = self._sources()
        publisher = sources.publisher
        return {
            "metrics": spelled(self._reader.read(sources)),
            "exported": self._exporter is not None and not self._broken,
            "events": None if publisher is None else publisher.snapshot(),
        }

    def _emit_fallbacks(self, work: Any) -> None:
        if work is None:
            return
        now = {layer: seen.fallbacks for layer, seen in work.layers.items()}
        now[-1] = work.invalid
        for layer, turns in now.items():
            more = turns - self._fallbacks.get(layer, 0)
            if more > 0:
                events.emit(Fallback(layer=layer, reason="invalid" if layer < 0 else "recall", turns=more))
        self._fallbacks = now
