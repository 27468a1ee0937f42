"""The proof that the seams of this process are in force, and its end where they are not.

A leaf: seams and the backend's factory call it, and the registry fills it with what it installs.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sgl_indexcache.errors import UserError
from sgl_indexcache.sglang_port import version
from sgl_indexcache.sglang_port.base import BrokenSeamError, Device, Seam, SeamError

installed: dict[str, Seam] = {}
"""The seams that the registry installed in this process, by name and in the order of installation."""
failures: dict[str, str] = {}
"""Why a seam could not be installed, by its name."""


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


def report(seams: Sequence[Seam]) -> list[SeamReport]:
    """The state in this process of every seam in `seams`, installed or not."""
    reports = []
    for seam in seams:
        failure = failures.get(seam.name)
        if failure is None and version.installed() != version.SUPPORTED:
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
    """Raise SeamError, naming the first installed seam of a device that is not in force; or when there is none."""
    seams = [seam for seam in installed.values() if device in seam.devices]
    if not seams:
        raise SeamError(f"no seam is installed for {device}: the plugin was not activated in this process")
    for entry in report(seams):
        if not entry.in_force:
            raise SeamError(
                f"seam {entry.name} is not in force: {entry.detail} ({version.both()}); "
                f"install sglang=={version.SUPPORTED} or start with SGL_INDEXCACHE_ENABLED=false"
            )


def stop(error: UserError) -> NoReturn:
    """Print one sentence and end the process with exit code 2.

    SGLang catches every Exception in a scheduler and wraps it in pages of traceback; SystemExit passes.
    """
    print(f"error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(2) from None
