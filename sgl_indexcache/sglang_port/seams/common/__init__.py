"""The seams of every device, in the order of installation."""

from sgl_indexcache.sglang_port.base import Seam
from sgl_indexcache.sglang_port.seams.common import (
    attention_backend,
    events,
    internal_state,
    metrics,
    radix,
    scheduler,
    self_check,
    server_args,
    switch,
)

SEAMS: tuple[Seam, ...] = (
    attention_backend.SEAM,
    server_args.SEAM,
    internal_state.SEAM,
    metrics.SEAM,
    events.SEAM,
    radix.SEAM,
    scheduler.SEAM,
    self_check.SEAM,
    switch.SEAM,
)
