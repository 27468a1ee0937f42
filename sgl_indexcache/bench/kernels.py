"""Kernel benchmark: measures, reports, and fills the table of choices.

A module that measures offers `measure()`, an iterator of {phase, heads, rows, keys, us: {kernel: samples}, wrong:
{kernel: why}}; a kernel under `wrong` failed its correctness check in this run and gets no ratio and no place in the
table.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from sgl_indexcache.attention import choice
from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.results import write_json, write_text

SCHEMA = "sgl_indexcache.bench.kernels/1"
Kind = Literal["consumers", "indexers"]


def kinds(only: str | None) -> list[Kind]:
    """The kinds that `only` names, separated by commas; None means all.

    Raises:
        BenchError: an unknown kind.
    """
    every: tuple[Kind, ...] = get_args(Kind)
    if only is None:
        return list(every)
    names = [part for part in only.split(",") if part]
    for name in names:
        if name not in every:
            raise BenchError(f"{name!r} is no kind of kernel: choose among {', '.join(every)}")
    return [kind for kind in every if kind in names]


def measure(kind: Kind, report: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Measure the kernels of a kind; `report` gets each entry as it comes, with medians and ratios."""
    entries = []
    for raw in _measurements(kind):
        entries.append(summarized(kind, raw))
        report(entries[-1])
    return entries


def _measurements(kind: Kind) -> Iterator[dict[str, Any]]:
    # Both need torch, and the indexers Triton: imported for what is measured alone.
    if kind == "consumers":
        from sgl_indexcache.bench import consumers

        return consumers.measure()
    from sgl_indexcache.kernels.benchmarks import score_select

    return score_select.measure()


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
