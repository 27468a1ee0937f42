"""What every offline result carries: schema, machine, versions. And the settings file for `serve`."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from sgl_indexcache import __version__
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Settings, dump_yaml


def machine() -> dict[str, Any]:
    """The client's machine: processor, cores, memory in GiB. No host name, no paths."""
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


def versions() -> dict[str, str | None]:
    """Versions of what a figure may depend on."""
    found: dict[str, str | None] = {"sgl-indexcache": __version__, "python": platform.python_version()}
    for package in ("sglang", "torch", "transformers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def write_json(path: Path, schema: str, content: dict[str, Any]) -> dict[str, Any]:
    """Write a result atomically, and return it whole, as a reader of the file would see it."""
    whole = {"schema": schema, "machine": machine(), "versions": versions(), **content}
    text = json.dumps(whole, indent=1, allow_nan=False)
    write_text(path, text + "\n")
    return dict(json.loads(text))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)


def write_settings(path: Path, pattern: Pattern, about: str) -> None:
    """A settings file for `sgl-indexcache serve --config`."""
    write_text(path, f"# {about}\n" + dump_yaml(Settings(pattern=str(pattern))))
