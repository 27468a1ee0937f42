"""Seam: what the plugin does, in /server_info (internal_states[*].indexcache)."""

from typing import Any

from sgl_indexcache import __version__
from sgl_indexcache.attention.base import Backend
from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BOTH, Hook, Seam
from sgl_indexcache.sglang_port.seams.common import metrics
from sgl_indexcache.store.check import check


def _describe(scheduler: Any, backend: Backend) -> dict[str, Any]:
    pattern, store, tree = runtime.current.pattern, runtime.current.store, runtime.current.tree
    two_level = backend.two_level
    if two_level is not None:
        two_level.refresh()
    if store is not None and runtime.current.settings.store.self_check and tree is not None:
        check(store, tree.nodes())
    return {
        "version": __version__,
        "pattern": str(pattern) if pattern is not None else None,
        "scoring": runtime.current.settings.scoring.mode,
        "work": backend.work.snapshot(),
        "store": store.snapshot() if store is not None else None,
        "two_level": two_level.work.snapshot() if two_level is not None else None,
        "telemetry": metrics.of(scheduler).snapshot(),
    }


def _after(result: Any, scheduler: Any, recv_req: Any) -> Any:
    backend = runtime.current.backend
    if backend is not None:
        result.internal_state["indexcache"] = _describe(scheduler, backend)
    return result


SEAM = Seam(
    name="internal-state",
    purpose="show pattern and indexer work in /server_info",
    devices=BOTH,
    hooks=(
        Hook(
            "sglang.srt.managers.scheduler.Scheduler.get_internal_state",
            "after",
            _after,
            parameters=("self", "recv_req"),
        ),
    ),
)
