"""Seam: the event stream of a scheduler, opened beside SGLang's own (`Scheduler.init_kv_events_publisher`), before it
serves.

One scheduler of each tensor-parallel group publishes, the one whose metrics SGLang logs. What cannot be opened as the
settings ask ends the process: events were asked for, and would be missing without a word.
"""

from typing import Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BOTH, Hook, Seam
from sgl_indexcache.sglang_port.proof import stop

publisher: Any = None
"""The Publisher of this process; None where events are off, and in other processes."""


def _after(result: Any, scheduler: Any) -> Any:
    settings = runtime.current.settings.telemetry
    publishes = scheduler.metrics_collector_context.is_stats_logging_rank and scheduler.ps.pp_rank == 0
    if runtime.current.backend is None or not settings.events or not publishes:
        return result
    try:
        open_stream(settings, scheduler.ps.dp_rank or 0)
    except UserError as error:
        stop(error)
    return result


def open_stream(settings: Any, rank: int) -> None:
    """Publish this process's events from now on; raises TelemetryError when the settings' address cannot serve."""
    global publisher
    from sgl_indexcache.telemetry import address, events
    from sgl_indexcache.telemetry.publisher import Publisher

    where = address.resolve(settings.address, settings.keys, rank)
    publisher = Publisher(where, rank=rank, queue=settings.queue, replay=settings.replay)
    events.connect(publisher)
    if runtime.current.store is not None:
        runtime.current.store.listener = events.SnapshotEvents()


SEAM = Seam(
    name="events",
    purpose="publish events of the plugin over ZMQ",
    devices=BOTH,
    hooks=(
        Hook(
            "sglang.srt.managers.scheduler.Scheduler.init_kv_events_publisher",
            "after",
            _after,
            parameters=("self",),
        ),
    ),
)
