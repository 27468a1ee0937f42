"""Plots of an end-to-end benchmark, drawn from its serve.json."""

from pathlib import Path
from typing import Any

from sgl_indexcache.bench.systems import LABELS, NAMES
from sgl_indexcache.results import figure

_COLOURS = {"standard": "#9db4c8", "reuse": "#5d7f9e", "indexcache": "#c0392b", "limit": "#dddddd"}
_TITLES = {
    "cold": ("prefill of a new prompt", "prompt, tokens", "seconds", 1e-3),
    "warm": ("new tokens after a cached prefix", "prefix + new tokens", "ms to the first token", 1.0),
    "repeat": ("the same prompt again", "prompt, tokens", "ms to the first token", 1.0),
    "decode": ("decode, requests share a prefix", "batch", "ms a step", 1.0),
}


def draw(folder: Path, report: dict[str, Any]) -> list[Path]:
    """One PNG for every kind of figure in the report; returns their paths."""
    paths = []
    for kind in _TITLES:
        rows = [row for row in report["figures"] if row["kind"] == kind]
        if rows:
            paths.append(folder / f"{kind}.png")
            _bars(paths[-1], kind, rows, report)
    return paths


def _bars(path: Path, kind: str, rows: list[dict[str, Any]], report: dict[str, Any]) -> None:
    title, across, up, scale = _TITLES[kind]
    names = [name for name in NAMES if any(name in row["ms"] for row in rows)]
    drawing = figure(2.0 + 1.3 * len(rows), 4.0)
    axes: Any = drawing.subplots()
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        at = [x + (place - (len(names) - 1) / 2) * width for x, row in enumerate(rows) if name in row["ms"]]
        shown = [row for row in rows if name in row["ms"]]
        heights = [row["ms"][name] * scale for row in shown]
        axes.bar(at, heights, width, color=_COLOURS[name], label=LABELS[name])
        for x, height, row in zip(at, heights, shown, strict=True):
            if name in row["ratios"]:
                axes.text(x, height, f"{row['ratios'][name]['median']:.2f}x", ha="center", va="bottom", fontsize=6)
    axes.set_xticks(range(len(rows)), [_tick(kind, row) for row in rows], fontsize=8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(f"{title}\n{report['model']['name']}, {report['measured_on']['device']}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    drawing.savefig(path)


def _tick(kind: str, row: dict[str, Any]) -> str:
    if kind == "decode":
        return str(row["batch"])
    return f"{row['length']:,}" + (f"\n+ {row['new']:,}" if kind == "warm" else "")
