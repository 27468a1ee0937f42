"""Seam: the self-check in every scheduler process, before it loads a model.

SGLang swallows a plugin's exceptions and a failed hook's, and goes on half-patched. Every rank therefore proves
all seams before `Scheduler.__init__` does anything; the factory of the attention backend proves them once more,
in case this very seam is the one that is missing.
"""

from typing import Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.sglang_port.base import BACKEND_NAME, BOTH, Hook, Seam
from sgl_indexcache.sglang_port.proof import device_of_process, stop, verify


def _before(scheduler: Any, server_args: Any, *args: Any, **kwargs: Any) -> None:
    if server_args.attention_backend != BACKEND_NAME:
        return
    try:
        verify(device_of_process())
    except UserError as error:
        stop(error)


SEAM = Seam(
    name="self-check",
    purpose="prove every seam in every scheduler before it loads a model",
    devices=BOTH,
    hooks=(
        Hook(
            "sglang.srt.managers.scheduler.Scheduler.__init__",
            "before",
            _before,
            parameters=("self", "server_args"),
        ),
    ),
)
