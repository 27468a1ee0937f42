"""Kernel benchmark: runs the scripts of kernels/benchmarks, reports, and fills the table of choices.

A script offers `measure()`, an iterator of {phase, heads, rows, keys, us: {kernel: samples}, wrong: {kernel: why}};
a kernel under `wrong` failed its correctness check in this run and gets no ratio and no place in the table.
"""

import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from sgl_indexcache.attention import choice
from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.results import write_json, write_text

SCHEMA = "sgl_indexcache.bench.kernels/1"
Kind = Literal["consumers", "indexers"]
SCRIPTS: Mapping[Kind, str] = {"consumers": "consumers.py", "indexers": "indexer.py"}


def folder() -> Path:
    """The folder kernels/benchmarks of a checkout: below the current folder, or beside the package.

    Raises:
        BenchError: this is an installation without a checkout.
    """
    here = Path(__file__).resolve()
    for root in (Path.cwd(), here.parents[2]):
        if (found := root / "kernels" / "benchmarks" / SCRIPTS["consumers"]).is_file():
            return found.parent
    raise BenchError("kernels/benchmarks is not here: run this command in the project's folder")


def kinds(only: str | None) -> list[Kind]:
    """The kinds that `only` names, separated by commas; None means those whose script is there.

    Raises:
        BenchError: an unknown kind, or one without a script.
    """
    here = folder()
    present: list[Kind] = [kind for kind, script in SCRIPTS.items() if (here / script).is_file()]
    if only is None:
        return present
    wanted = [part for part in only.split(",") if part]
    for part in wanted:
        if part not in present:
            raise BenchError(f"{part!r} cannot be measured here: choose among {', '.join(present)}")
    return [kind for kind in present if kind in wanted]


def measure(kind: Kind, report: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Run one script's measurements; `report` gets each entry as it comes, with medians and ratios."""
    script = folder() / SCRIPTS[kind]
    spec = importlib.util.spec_from_file_location(f"kernels_benchmarks_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    # A script imports its neighbours.
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(script.parent))
    entries = []
    for raw in module.measure():
        entries.append(summarized(kind, raw))
        report(entries[-1])
    return entries


def summarized(kind: Kind, raw: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with {median, low, high} instead of samples, and ratios against SGLang's kernel of right ones."""
    us = {
        name: {"median": statistics.median(samples), "low": min(samples), "high": max(samples)}
        for name, samples in raw["us"].items()
    }
    peer = choice.SGLANG_CONSUMER[raw["phase"]] if kind == "consumers" else "sglang"
    right = {name for name in us if name not in raw["wrong"]}
    ratios = {name: us[peer]["median"] / us[name]["median"] for name in sorted(right - {peer})} if peer in right else {}
    return {"kind": kind, **{k: v for k, v in raw.items() if k != "us"}, "us": us, "peer": peer, "ratios": ratios}


def write(path: Path, entries: Iterable[dict[str, Any]], device: Mapping[str, Any]) -> dict[str, Any]:
    """Write kernels.json and return its content."""
    return write_json(path, SCHEMA, {"measured_on": dict(device), "entries": list(entries)})


def table(report: Mapping[str, Any]) -> dict[str, Any]:
    """The table of choices that a kernels.json gives; wrong kernels are left out of it."""
    document: dict[str, Any] = {
        "schema": choice.SCHEMA,
        "device": report["measured_on"]["device"],
        "origin": "sgl-indexcache bench kernels",
        "versions": report["versions"],
        "consumers": [],
        "indexers": [],
    }
    for entry in report["entries"]:
        times = {n: round(us["median"], 2) for n, us in entry["us"].items() if n not in entry["wrong"]}
        if entry["peer"] in times:
            shape = {name: entry[name] for name in ("phase", "heads", "rows", "keys")}
            document[entry["kind"]].append({**shape, "us": times})
    return document


def fill(path: Path, report: Mapping[str, Any]) -> None:
    """Write the table of choices; a kind that was not measured keeps what the package's table says.

    Raises:
        BenchError: nothing was measured that could serve on a GPU.
    """
    document = table(report)
    if not (document["consumers"] or document["indexers"]):
        raise BenchError("no kernel of SGLang was measured, so that there is nothing to choose: run on a GPU")
    shipped = choice.table()
    if shipped.device == document["device"]:
        for kind in ("consumers", "indexers"):
            document[kind] = document[kind] or [
                {"phase": e.phase, "heads": e.heads, "rows": e.rows, "keys": e.keys, "us": dict(e.us)}
                for e in getattr(shipped, kind)
            ]
    choice.Table.of(document)
    write_text(path, _text(document))


def _text(document: Mapping[str, Any]) -> str:
    """JSON with one shape a line, so that a new measurement reads well as a change."""
    import json

    parts = []
    for name, value in document.items():
        if name in ("consumers", "indexers"):
            lines = ",\n".join("  " + json.dumps(entry) for entry in value)
            parts.append(f' "{name}": [\n{lines}\n ]' if value else f' "{name}": []')
        else:
            parts.append(f' "{name}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
