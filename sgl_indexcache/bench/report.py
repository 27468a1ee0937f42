"""From the systems' results to one table of ratios."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.serve import measured
from sgl_indexcache.bench.systems import NAMES
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.bench.serve/1"
# Systems at one pattern differ by the order of their sums alone: a log-probability of bf16 logits by about 0.02.
MAX_DIFFERENCE = 0.15
MIN_COMMON = 10
_SAME = ("model", "workload", "engine", "versions")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The complete results in a folder, by system.

    Raises:
        BenchError: there are none, or they are not of one model, workload, machine and set of versions.
    """
    results = {name: result for name in NAMES if (result := measured(folder, name)) is not None}
    if not results:
        raise BenchError(f"{folder} holds no complete result: run sgl-indexcache bench serve --out {folder} first")
    first_name, first = next(iter(results.items()))
    for name, result in results.items():
        for part in _SAME:
            if result[part] != first[part]:
                raise BenchError(_differ(first_name, name, folder, part))
        if result["machine"]["device"] != first["machine"]["device"]:
            raise BenchError(_differ(first_name, name, folder, "device"))
    return results


def _differ(one: str, other: str, folder: Path, part: str) -> str:
    return f"the systems {one} and {other} in {folder} differ in their {part}: measure them again in one folder"


def agreement(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Why two systems of one pattern do not agree on the probe's next token; None when they do."""
    left = dict(zip(one["tokens"], one["log_probs"], strict=True))
    right = dict(zip(other["tokens"], other["log_probs"], strict=True))
    common = left.keys() & right.keys()
    if len(common) < min(MIN_COMMON, len(left)):
        return f"only {len(common)} of the {len(left)} most likely tokens are the same"
    worst = max(abs(left[token] - right[token]) for token in common)
    if worst > MAX_DIFFERENCE:
        return f"log-probabilities differ by {worst:.3f}"
    return None


def figures(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a figure: {kind, length, new, batch, ms: {system: median}, ratios: {system: {median, low, high}}}.

    A ratio is the time of `standard` over the system's; low and high are the extremes that the samples allow.
    Without `standard`, the first system stands in its place.
    """
    base = "standard" if "standard" in results else next(iter(results))
    by_key: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    for name, result in results.items():
        for figure in result["figures"]:
            key = (figure["kind"], figure["length"], figure["new"], figure["batch"])
            by_key.setdefault(key, {})[name] = figure["samples"]
    rows = []
    for (kind, length, new, batch), samples in by_key.items():
        rows.append(
            {
                "kind": kind,
                "length": length,
                "new": new,
                "batch": batch,
                "ms": {name: statistics.median(values) for name, values in samples.items()},
                "ratios": {
                    name: ratio(samples[base], values)
                    for name, values in samples.items()
                    if name != base and base in samples
                },
            }
        )
    return rows


def ratio(base: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """How many times faster `other` is: of the medians, and the least and the most that single samples give."""
    return {
        "median": statistics.median(base) / statistics.median(other),
        "low": min(base) / max(other),
        "high": max(base) / min(other),
    }


def write(folder: Path) -> dict[str, Any]:
    """Merge a folder's systems into serve.json and return its content.

    Ratios of `indexcache` are left out, with the reason under `refused`, when it and `reuse` were measured and do
    not agree on the probe: a wrong system has no speed-up.
    """
    results = read(folder)
    rows = figures(results)
    refused = None
    if {"reuse", "indexcache"} <= results.keys():
        refused = agreement(results["reuse"]["probe"], results["indexcache"]["probe"])
    if refused is not None:
        for row in rows:
            row["ratios"].pop("indexcache", None)
    first = next(iter(results.values()))
    content = {
        "measured_on": first["machine"],
        "measured_with": first["versions"],
        "model": first["model"],
        "workload": first["workload"],
        "engine": first["engine"],
        "systems": {
            name: {"pattern": result["pattern"], "start_s": result["start_s"], "settings": result["settings"]}
            for name, result in results.items()
        },
        "refused": refused,
        "figures": rows,
    }
    return write_json(folder / "serve.json", SCHEMA, content)
