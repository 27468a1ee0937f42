"""Seam: change the pattern of a running scheduler, for pattern search (the paper's Algorithm 1).

Through SGLang's own /set_internal_state, whose payload reaches every rank; `pattern/wire.py` says how it spells a
pattern. A switch needs an idle scheduler without captured graphs, and empties the radix tree: Shared layers
store no index keys, so KV computed under one pattern is no prefix for another.
"""

import inspect
import logging
from typing import Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.pattern import Pattern, wire
from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BOTH, BrokenSeamError, Hook, Seam
from sgl_indexcache.telemetry.events import PatternChanged, emit

logger = logging.getLogger(__name__)


class SwitchRefusedError(UserError):
    """The pattern stays as it is; the text says why."""


def _around(original: Any, scheduler: Any, recv_req: Any) -> Any:
    if not wire.is_switch(recv_req.server_args):
        return original(scheduler, recv_req)
    from sglang.srt.managers.io_struct import SetInternalStateReqOutput

    try:
        switch(scheduler, wire.decode(recv_req.server_args))
    except UserError as error:
        logger.warning(f"the pattern was not switched: {error}")
        return SetInternalStateReqOutput(updated=False)
    return SetInternalStateReqOutput(updated=True)


def switch(scheduler: Any, pattern: Pattern) -> None:
    """Put `pattern` in force in this scheduler, or raise SwitchRefusedError and leave everything as it is."""
    backend = runtime.current.backend
    if backend is None:
        raise SwitchRefusedError("the attention backend is not indexcache; start the server with sgl-indexcache serve")
    runner = scheduler.tp_worker.model_runner
    layers = runner.model.model.layers
    if len(layers) != len(pattern):
        raise SwitchRefusedError(f"the pattern has {len(pattern)} letters but the model has {len(layers)} layers")
    store = runtime.current.store
    if store is not None and not store.fits(len(pattern.full_layers)):
        raise SwitchRefusedError("the index store is too small for it; start with a larger store.snapshot_mib")
    captured = [phase for phase in ("decode", "prefill") if _captured(runner, phase)]
    if captured:
        raise SwitchRefusedError(
            f"{' and '.join(captured)} graphs are captured and hold the old pattern; "
            "start the server with --disable-decode-cuda-graph --disable-prefill-cuda-graph"
        )
    if not scheduler.is_fully_idle():
        raise SwitchRefusedError("requests are running or waiting; try again when the server is idle")
    # Handing free device memory back would take most of a switch's time, and the next forward wants it again.
    if not scheduler.flush_cache(empty_cache=False):
        raise SwitchRefusedError("the radix tree could not be emptied")
    set_carry(layers, pattern)
    backend.configure(pattern)
    if store is not None:
        store.configure(pattern.full_layers)
    before, runtime.current.pattern = runtime.current.pattern, pattern
    emit(PatternChanged(pattern=str(pattern), before=str(before)))
    logger.info(f"the pattern in force is now {pattern}")


def set_carry(layers: Any, pattern: Pattern) -> None:
    """Tell every layer whether it and the next one reuse a selection (models/deepseek_v2.py:1822-1858).

    What lies behind the last layer counts as Full, as in SGLang's `dsa_layer_skips_topk`.
    """
    reuses = [letter == "S" for letter in str(pattern)]
    for layer, skip, following in zip(layers, reuses, [*reuses[1:], False], strict=True):
        layer.self_attn.skip_topk = skip
        layer.self_attn.next_skip_topk = following


def _captured(runner: Any, phase: str) -> bool:
    """Whether this phase runs from a graph; graph-less phases have no runner or SGLang's eager one."""
    from sglang.srt.model_executor.runner import EagerRunner

    graphs = getattr(runner, f"{phase}_cuda_graph_runner")
    return graphs is not None and not isinstance(graphs, EagerRunner)


def _probe() -> str:
    from sglang.srt.managers.io_struct import SetInternalStateReq
    from sglang.srt.managers.scheduler import Scheduler

    for name, parameter in (("is_fully_idle", "self"), ("flush_cache", "empty_cache")):
        method = getattr(Scheduler, name, None)
        if method is None or parameter not in inspect.signature(method).parameters:
            raise BrokenSeamError(f"Scheduler.{name} does not exist, or not with the argument {parameter}")
    if SetInternalStateReq(server_args=wire.encode(Pattern("FS"))).server_args != wire.encode(Pattern("FS")):
        raise BrokenSeamError("SetInternalStateReq does not carry the payload")
    return "switch patterns at run time when idle and without graphs"


SEAM = Seam(
    name="switch",
    purpose="switch patterns at run time",
    devices=BOTH,
    hooks=(
        Hook(
            "sglang.srt.managers.scheduler.Scheduler.set_internal_state",
            "around",
            _around,
            parameters=("self", "recv_req"),
        ),
    ),
    probe=_probe,
)
