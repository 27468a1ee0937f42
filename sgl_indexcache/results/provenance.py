"""What a figure belongs to: the machine, its accelerator, and the versions of what ran."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from sgl_indexcache import __version__

PACKAGES = ("sglang", "torch", "transformers")
"""What any figure may depend on."""
KERNEL_PACKAGES = ("triton", "flashinfer-python", "sglang-kernel", "sgl-deep-gemm")


def machine() -> dict[str, Any]:
    """The machine of this process: processor, cores, memory in GiB. No host name, no paths."""
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def device() -> dict[str, Any]:
    """The accelerator's name and memory in GiB, if torch sees one; otherwise `cpu`. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return {"device": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return {"device": properties.name, "device_memory_gib": round(properties.total_memory / 2**30, 1)}


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Versions of this project, Python and `packages`; None for a package that is not installed."""
    return {"sgl-indexcache": __version__, "python": platform.python_version(), **_installed(packages)}


def kernel_versions() -> dict[str, str | None]:
    """Versions of the packages that hold kernels."""
    return _installed(KERNEL_PACKAGES)


def _installed(packages: tuple[str, ...]) -> dict[str, str | None]:
    result: dict[str, str | None] = {}
    for package in packages:
        try:
            result[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            result[package] = None
    return result
