"""The plots of the nano model's card, as PNG files that the same figures give byte for byte."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_indexcache.results import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENSE, SPARSE = "#6b7a8f", "#b5432e"
STAGE_COLOURS = {"dense": "#6b7a8f", "warmup": "#c9952c", "sparse": "#b5432e"}
DPI = 110
NAMES = ("nano-training.png", "nano-needles.png", "nano-loss.png", "nano-recall.png")


def _save(drawn: "Figure", path: Path) -> None:
    """Without the version of matplotlib, which would be in the file otherwise."""
    drawn.savefig(path, metadata={"Software": None})


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)


def training_curves(path: Path, log: Sequence[dict[str, Any]]) -> None:
    """Loss of text and of the asked-for digits, and the indexers' KL, over the steps, phase by phase."""
    drawn = figure(9.0, 6.5, DPI)
    panels: Any = drawn.subplots(3, 1, sharex=True)
    kinds = (
        ("text", "text, nats a byte"),
        ("digits", "values asked for,\nnats a digit"),
        ("kl", "indexers, KL in nats"),
    )
    phases = [(name, list(lines)) for name, lines in groupby(log, key=lambda line: str(line["phase"]))]
    for axes, (kind, label) in zip(panels, kinds, strict=True):
        _plain(axes)
        axes.set_ylabel(label, fontsize=8)
        for name, lines in phases:
            stage = name.split("-")[0]
            # The backbone rests in the warm-up; the indexers have no loss before it.
            if kind == "kl" and stage == "dense":
                continue
            steps = [line["step"] for line in lines]
            axes.plot(steps, [line[kind] for line in lines], color=STAGE_COLOURS[stage], linewidth=0.8)
            axes.axvline(steps[0], color="#bbbbbb", linewidth=0.6, linestyle=":")
    panels[0].set_ylim(0.6, 1.6)
    panels[1].set_yscale("log")
    panels[2].set_yscale("log")
    panels[-1].set_xlabel("step of 65,536 bytes")
    for name, lines in phases:
        panels[0].annotate(
            name,
            (lines[0]["step"], 1.58),
            fontsize=7,
            rotation=90,
            va="top",
            color=STAGE_COLOURS[name.split("-")[0]],
        )
    _save(drawn, path)


def needle_maps(path: Path, evaluation: dict[str, Any]) -> None:
    """Share of needles found by context length and depth, dense and sparse side by side."""
    drawn = figure(9.0, 3.2, DPI)
    panels: Any = drawn.subplots(1, 2, sharey=True)
    lengths = [str(length) for length in evaluation["lengths"]]
    image: Any = None
    for axes, kind in zip(panels, ("dense", "sparse"), strict=True):
        shares = [evaluation[kind]["needle"][length]["by_depth"] for length in lengths]
        image = axes.imshow(shares, cmap="RdYlGn", vmin=0.0, vmax=1.0, aspect="auto")
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                axes.text(
                    column,
                    row,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if share > 0.85 else "black",
                )
        axes.set_yticks(range(len(lengths)), lengths)
        depths = len(shares[0])
        axes.set_xticks(range(depths), [f"{place / (depths - 1):.0%}" for place in range(depths)], fontsize=7)
        axes.set_xlabel("depth of the fact (0% = beginning)")
        axes.set_title(f"{kind}, k = {evaluation['topk']}" if kind == "sparse" else kind, fontsize=9)
    panels[0].set_ylabel("context, bytes")
    drawn.colorbar(image, ax=list(panels), label="found")
    _save(drawn, path)


def loss_by_length(path: Path, evaluation: dict[str, Any]) -> None:
    """Held-out loss by context length, and by position within the longest context."""
    drawn = figure(9.0, 3.4, DPI)
    left, right = drawn.subplots(1, 2)
    lengths = [str(length) for length in evaluation["lengths"]]
    for kind, colour in (("dense", DENSE), ("sparse", SPARSE)):
        losses = evaluation[kind]["loss"]
        left.plot(lengths, [losses[length]["loss"] for length in lengths], color=colour, marker="o", label=kind)
        bins = losses[lengths[-1]]["by_position"]
        right.plot(list(bins), list(bins.values()), color=colour, marker="o", label=kind)
    left.set_xlabel("context, bytes")
    left.set_ylabel("held-out loss, nats a byte")
    right.set_xlabel(f"position in a context of {lengths[-1]}")
    right.tick_params(axis="x", rotation=45, labelsize=7)
    for axes in (left, right):
        _plain(axes)
        axes.legend(frameon=False, fontsize=8)
    _save(drawn, path)


def recall_by_layer(path: Path, evaluation: dict[str, Any]) -> None:
    """Share of attention's mass on the indexer's top k, by layer, one curve a length."""
    drawn = figure(9.0, 3.4, DPI)
    panels: Any = drawn.subplots(1, 2, sharey=True)
    shades = ("#c6d3e0", "#90a9c4", "#4f759f", "#1d3f66")
    lengths = [str(length) for length in evaluation["lengths"]]
    titles = (("text", "queries anywhere in text"), ("answers", "queries that predict a value asked for"))
    for axes, (kind, title) in zip(panels, titles, strict=True):
        for shade, length in zip(shades, lengths, strict=False):
            mass = evaluation["recall"][length][kind]["mass"]
            axes.plot(range(len(mass)), mass, color=shade, marker=".", label=length)
        _plain(axes)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("layer")
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel(f"mass on the top {evaluation['topk']}")
    panels[0].legend(frameon=False, fontsize=8, title="context, bytes", title_fontsize=8)
    _save(drawn, path)


def draw_all(folder: Path, log: Sequence[dict[str, Any]], evaluation: dict[str, Any]) -> list[Path]:
    """Every plot of NAMES into `folder`; their paths."""
    paths = [folder / name for name in NAMES]
    training_curves(paths[0], log)
    needle_maps(paths[1], evaluation)
    loss_by_length(paths[2], evaluation)
    recall_by_layer(paths[3], evaluation)
    return paths
