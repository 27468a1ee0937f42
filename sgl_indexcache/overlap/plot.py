"""Plots of an overlap report: a heatmap of layer pairs for every length, curves over distance and decode steps."""

from pathlib import Path
from typing import Any

import numpy as np

from sgl_indexcache.results import figure


def draw(folder: Path, report: dict[str, Any]) -> None:
    """Draw an overlap.json as layers.png and curves.png into `folder`."""
    heatmaps(folder / "layers.png", report["lengths"])
    curves(folder / "curves.png", report["lengths"])


def heatmaps(path: Path, lengths: list[dict[str, Any]]) -> None:
    """One square of layer by layer for every context length, on one scale; PNG."""
    drawing = figure(1.2 + 3.6 * len(lengths), 4.0)
    from matplotlib.ticker import MaxNLocator

    cells: Any = drawing.subplots(1, len(lengths), squeeze=False)
    image = None
    for axes, entry in zip(cells[0], lengths, strict=True):
        length, matrix = entry["length"], np.array(entry["between_layers"], dtype=float)
        image = axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis", origin="lower")
        axes.set_title(f"{length:,} tokens", fontsize=10)
        axes.set_xlabel("layer")
        axes.set_ylabel("layer")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    if image is not None:
        drawing.colorbar(image, ax=list(cells[0]), label="share of a selection in common", shrink=0.85)
    drawing.savefig(path)


def curves(path: Path, lengths: list[dict[str, Any]]) -> None:
    """Overlap with the query d before, and of decode steps by layer; a line for every context length; PNG."""
    from matplotlib import colormaps

    drawing = figure(10.0, 4.0)
    left, right = drawing.subplots(1, 2)
    colours = colormaps["viridis"](np.linspace(0.1, 0.8, len(lengths)))
    for entry, colour in zip(lengths, colours, strict=True):
        name = f"{entry['length']:,} tokens"
        queries, steps = entry["between_queries"], entry["between_decode_steps"]["by_layer"]
        # null, where no query is that far back, is drawn as a gap.
        shares = np.array(queries["mean"], dtype=float)
        left.plot(queries["distances"], shares, marker="o", markersize=3, color=colour, label=name)
        left.axhline(entry["chance"], color=colour, linestyle=":", linewidth=1)
        if steps:
            right.plot(np.array(steps, dtype=float), marker="o", markersize=3, color=colour, label=name)
    left.set_xscale("log", base=2)
    left.set_xlabel("distance between queries, tokens (dotted: chance)")
    right.set_xlabel("layer")
    left.set_title("neighbouring queries", fontsize=10)
    right.set_title("consecutive decode steps", fontsize=10)
    for axes in (left, right):
        axes.set_ylim(0.0, 1.02)
        axes.set_ylabel("share of a selection in common")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    drawing.savefig(path)
