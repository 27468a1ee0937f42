"""Seam: after a scheduler's step, and while it idles, the plugin's metrics are brought up to date.

`Scheduler.process_batch_result` (managers/scheduler.py:3814) ends every step of every event loop that runs batches,
`on_idle` (:3925) is called again and again in between, and first before any request. Labels and the question which
ranks export are SGLang's (observability/metrics_collector.py:1054).
"""

from typing import Any

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BOTH, Hook, Seam
from sgl_indexcache.sglang_port.seams.common import events
from sgl_indexcache.telemetry.readings import Sources
from sgl_indexcache.telemetry.scheduler import Telemetry

_telemetry: Telemetry | None = None


def of(scheduler: Any) -> Telemetry:
    """The telemetry of this process's scheduler."""
    global _telemetry
    if _telemetry is None:
        _telemetry = Telemetry(sources, _exporter(scheduler))
    return _telemetry


def sources() -> Sources:
    """What there is to read at this moment."""
    current = runtime.current
    return Sources(
        backend=current.backend,
        pattern=current.pattern,
        store=current.store,
        recall_floor=current.settings.scoring.recall_floor,
        publisher=events.publisher,
    )


def _exporter(scheduler: Any) -> Any:
    context = scheduler.metrics_collector_context
    if not runtime.current.settings.telemetry.metrics or not context.current_scheduler_metrics_enabled:
        return None
    # Not above: prometheus_client must not be imported before SGLang has named the folder for its files.
    from sgl_indexcache.telemetry.prometheus import Exporter

    return Exporter(context.collector.labels)


def _after_step(result: Any, scheduler: Any, *args: Any) -> Any:
    telemetry = _telemetry or of(scheduler)
    telemetry.step()
    return result


def _after_idle(result: Any, scheduler: Any, *args: Any) -> Any:
    telemetry = _telemetry or of(scheduler)
    telemetry.idle()
    return result


SEAM = Seam(
    name="metrics",
    purpose="export metrics with SGLang's own",
    devices=BOTH,
    hooks=(
        Hook(
            "sglang.srt.managers.scheduler.Scheduler.process_batch_result",
            "after",
            _after_step,
            parameters=("self", "batch", "result"),
        ),
        Hook("sglang.srt.managers.scheduler.Scheduler.on_idle", "after", _after_idle, parameters=("self",)),
    ),
)
