"""All seams, and the self-check over them."""

import os
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.sglang_port import (
    attention_backend,
    cpu_allocator,
    cpu_capture,
    cpu_defaults,
    cpu_device,
    cpu_indexer,
    cpu_pool,
    cpu_rope,
    cuda_capture,
    cuda_indexer,
    cuda_topk,
    events,
    internal_state,
    metrics,
    radix,
    scheduler,
    self_check,
    server_args,
    switch,
    version,
)
from sgl_indexcache.sglang_port.base import BrokenSeamError, Device, Seam, SeamError

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
    cpu_device.SEAM,
    cpu_defaults.SEAM,
    cpu_pool.SEAM,
    cpu_indexer.SEAM,
    cpu_rope.SEAM,
    cpu_allocator.SEAM,
    cpu_capture.SEAM,
    cuda_capture.SEAM,
    cuda_indexer.SEAM,
    cuda_topk.SEAM,
)


@dataclass(frozen=True, slots=True)
class SeamReport:
    """The state of one seam in this process."""

    name: str
    in_force: bool
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON: name, in_force, detail."""
        return {"name": self.name, "in_force": self.in_force, "detail": self.detail}


def device_of_process() -> Device:
    """The device that SGLang was told to use, read as SGLang reads it and without touching CUDA."""
    return "cpu" if os.environ.get("SGLANG_USE_CPU_ENGINE", "0").lower() in ("1", "true") else "cuda"


def seams_for(device: Device) -> list[Seam]:
    """The seams that `device` needs, in the order of installation."""
    return [seam for seam in SEAMS if device in seam.devices]


def install(device: Device) -> None:
    """Install the seams of a device. An exception in one is kept for the self-check, which then names it."""
    for seam in seams_for(device):
        try:
            seam.install()
        except Exception as error:  # SGLang's internals may fail in any way; the self-check reports it
            _failures[seam.name] = f"could not be installed ({type(error).__name__}: {error})"


def report(device: Device) -> list[SeamReport]:
    """The state of every seam of a device in this process."""
    reports = []
    for seam in seams_for(device):
        failure = _failures.get(seam.name)
        if failure is None and version.found() != version.SUPPORTED:
            failure = version.both()
        if failure is None:
            try:
                reports.append(SeamReport(seam.name, True, seam.prove()))
                continue
            except BrokenSeamError as error:
                failure = str(error)
            except Exception as error:  # a proof that cannot even run proves nothing
                failure = f"could not be verified ({type(error).__name__}: {error})"
        reports.append(SeamReport(seam.name, False, failure))
    return reports


def verify(device: Device) -> None:
    """Raise SeamError, naming the first seam that is not in force."""
    for entry in report(device):
        if not entry.in_force:
            raise SeamError(
                f"seam {entry.name} is not in force: {entry.detail} ({version.both()}); "
                f"install sglang=={version.SUPPORTED} or start with SGL_INDEXCACHE_ENABLED=false"
            )


_failures: dict[str, str] = {}
