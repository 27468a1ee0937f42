"""Plots of overlap: a heatmap of layer pairs for every length, and curves over distance and decode steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sgl_indexcache.search.plot import figure

if TYPE_CHECKING:
    from sgl_indexcache.overlap.run import Measured


def heatmaps(path: Path, matrices: Sequence[tuple[int, np.ndarray]]) -> None:
    """One square of layer by layer for every context length, on one scale; PNG."""
    drawn = figure(1.2 + 3.6 * len(matrices), 4.0)
    cells: Any = drawn.subplots(1, len(matrices), squeeze=False)
    image = None
    for axes, (length, matrix) in zip(cells[0], matrices, strict=True):
        image = axes.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis", origin="lower")
        axes.set_title(f"{length:,} tokens", fontsize=10)
        axes.set_xlabel("layer")
        axes.set_ylabel("layer")
    if image is not None:
        drawn.colorbar(image, ax=list(cells[0]), label="share of a selection in common", shrink=0.85)
    drawn.savefig(path)


def curves(path: Path, results: Sequence["Measured"], distances: Sequence[int]) -> None:
    """Overlap with the query d before, and of decode steps by layer; a line for every context length; PNG."""
    from matplotlib import colormaps

    drawn = figure(10.0, 4.0)
    left, right = drawn.subplots(1, 2)
    colours = colormaps["viridis"](np.linspace(0.1, 0.8, len(results)))
    for result, colour in zip(results, colours, strict=True):
        name = f"{result.length:,} tokens"
        left.plot(distances, result.queries.mean(axis=1), marker="o", markersize=3, color=colour, label=name)
        left.axhline(result.chance, color=colour, linestyle=":", linewidth=1)
        if result.steps.size:
            right.plot(result.steps.mean(axis=0), marker="o", markersize=3, color=colour, label=name)
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
    drawn.savefig(path)
