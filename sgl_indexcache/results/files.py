"""The envelope of a result, and files that are complete or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgl_indexcache.results.provenance import device, kernel_versions, machine, versions


def envelope(schema: str, *, on_device: bool = False) -> dict[str, Any]:
    """`schema`, `machine` and `versions` of a result of this process.

    on_device   this process ran on the device itself, whose name and kernel packages belong to the figures;
                a tool that asks a server leaves it out, as its server may run elsewhere
    """
    if not on_device:
        return {"schema": schema, "machine": machine(), "versions": versions()}
    return {
        "schema": schema,
        "machine": {**machine(), **device()},
        "versions": {**versions(), **kernel_versions()},
    }


def write_json(path: Path, schema: str, content: Mapping[str, Any], *, on_device: bool = False) -> dict[str, Any]:
    """Write `content` in its envelope, atomically; returns the whole as a reader of the file would see it."""
    text = json.dumps({**envelope(schema, on_device=on_device), **content}, indent=1, allow_nan=False)
    write_text(path, text + "\n")
    return dict(json.loads(text))


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is complete or not there; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)
