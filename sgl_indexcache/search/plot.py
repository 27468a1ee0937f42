"""The plot of a search, drawn from its report: loss against the number of Full layers."""

from pathlib import Path
from typing import Any

from sgl_indexcache.results.plot import ACCENT, FAINT, INK, figure


def loss_against_budget(path: Path, report: dict[str, Any]) -> None:
    """Draw a search.json's loss of every budget, the flips that were not taken, and the all-Full loss; PNG."""
    drawing = figure(7.5, 4.5)
    from matplotlib.ticker import MaxNLocator

    axes: Any = drawing.subplots()
    steps = report["steps"]
    for step in steps:
        others = [loss for layer, loss in step.get("candidates", {}).items() if layer != str(step["flipped"])]
        axes.scatter([step["full_layers"]] * len(others), others, s=9, color=FAINT, zorder=1)
    full = [step["full_layers"] for step in steps]
    losses = [step["loss"] for step in steps]
    axes.plot(full, losses, color=INK, marker="o", markersize=4, zorder=2)
    axes.axhline(losses[0], color=ACCENT, linewidth=1, linestyle="--", zorder=0)
    axes.text(full[0], losses[0], " all Full", color=ACCENT, va="bottom", ha="left", fontsize=8)
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("Full layers (fewer to the right)")
    axes.set_ylabel("loss, nats per token")
    model, tokens = report["model"], report["calibration"]["tokens"]
    title = f"{model['name']}: {report['settings']['scorer']}, {model['layers']} layers, {tokens:,} calibration tokens"
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    # Flips of important layers can cost so much that the curve itself would be flat.
    span = max(max(losses) - min(losses), 1e-6)
    axes.set_ylim(min(losses) - 0.1 * span, max(losses) + 0.6 * span)
    drawing.savefig(path)
