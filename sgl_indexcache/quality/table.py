"""The quality table: JSON, Markdown and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.quality.judge import Judgement, Tasks, edges
from sgl_indexcache.results import write_json, write_text
from sgl_indexcache.results.plot import ACCENT, FAINT, INK, figure

SCHEMA = "sgl_indexcache.quality/1"
_DASH = "–"


def write(
    out: Path,
    model: ModelFacts,
    judgements: Sequence[Judgement],
    tasks: Tasks,
    settings: dict[str, Any],
    draw: bool = True,
) -> str:
    """Write quality.json, quality.md and, with `draw`, quality.png into `out`; returns the Markdown table."""
    rows = described(judgements, tasks, model)
    report = write_json(
        out / "quality.json",
        SCHEMA,
        {
            "settings": {
                "engine": settings,
                "recall": {
                    "tokens": tasks.recall_tokens,
                    "samples": tasks.recall_samples,
                    "rows": tasks.recall_rows,
                },
            },
            "model": model.described(),
            "held_out": tasks.held_out.described(),
            "needles": tasks.needles.described() if tasks.needles else None,
            "rows": rows,
        },
    )
    text = markdown(rows)
    write_text(out / "quality.md", text)
    if draw:
        plot(out / "quality.png", report)
    return text


def described(judgements: Sequence[Judgement], tasks: Tasks, model: ModelFacts) -> list[dict[str, Any]]:
    """The rows as plain data; losses are compared with the first row, which is all Full."""
    base = judgements[0].loss
    names = _ranges(edges(model.top_k, max(map(len, tasks.held_out.ids))))
    result = []
    for entry in judgements:
        shared = list(entry.row.pattern.shared_layers)
        result.append(
            {
                "name": entry.row.name,
                "kind": entry.row.kind,
                "pattern": str(entry.row.pattern),
                "full_layers": len(entry.row.pattern.full_layers),
                "loss": entry.loss,
                "increase": entry.loss / base - 1,
                "loss_by_position": dict(zip(names, entry.loss_by_range, strict=True)),
                "needle_accuracy": float(np.mean(entry.solved)) if entry.solved else None,
                "needles_by_length": _by_length(entry, tasks),
                "recall": float(entry.recall.mean()),
                "recall_shared_layers": float(entry.recall[shared].mean()) if shared else None,
                "recall_by_layer": [round(float(value), 4) for value in entry.recall],
            }
        )
    return result


def _ranges(ends: list[int]) -> list[str]:
    return [f"{first + 1}-{end}" for first, end in zip([0, *ends], ends, strict=False)]


def _by_length(entry: Judgement, tasks: Tasks) -> dict[str, float]:
    """Accuracy of tasks of up to 1,024, 2,048, 4,096, ... prompt tokens."""
    groups: dict[int, list[bool]] = {}
    for task, solved in zip(tasks.needles.tasks if tasks.needles else [], entry.solved, strict=True):
        groups.setdefault(max(1024, 1 << (len(task.ids) - 1).bit_length()), []).append(solved)
    return {str(length): float(np.mean(groups[length])) for length in sorted(groups)}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, one line a pattern."""
    ranges = list(rows[0]["loss_by_position"])
    lengths = list(rows[0]["needles_by_length"])
    head = ["pattern", "Full layers", "loss", "increase", *(f"loss at {name}" for name in ranges)]
    head += ["needles", *(f"needles ≤ {int(length):,}" for length in lengths), "recall", "recall, Shared layers"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        lines.append(
            [
                row["name"],
                str(row["full_layers"]),
                f"{row['loss']:.4f}",
                f"{row['increase']:+.2%}",
                *(f"{row['loss_by_position'][name]:.4f}" for name in ranges),
                _percent(row["needle_accuracy"]),
                *(_percent(row["needles_by_length"][length]) for length in lengths),
                _percent(row["recall"]),
                _percent(row["recall_shared_layers"]),
            ]
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    patterns = "\n".join(f"{row['name']:<16} {row['pattern']}" for row in rows)
    return f"{table}\n\n```\n{patterns}\n```\n"


def _percent(share: float | None) -> str:
    return _DASH if share is None else f"{share:.1%}"


def plot(path: Path, report: dict[str, Any]) -> None:
    """A quality.json's loss increase, needle accuracy and recall against the number of Full layers; PNG."""
    rows, model = report["rows"], report["model"]
    drawing = figure(11.0, 3.8)
    panels: Any = drawing.subplots(1, 3)
    for axes, name, title in zip(
        panels,
        ("increase", "needle_accuracy", "recall_shared_layers"),
        ("loss above all Full, %", "needle accuracy, %", "recall in Shared layers, %"),
        strict=True,
    ):
        for kind, colour in (("uniform", ACCENT), ("searched", INK), ("given", "#7f8c8d")):
            points = [(row["full_layers"], row[name]) for row in rows if row["kind"] == kind]
            points = sorted((full, 100 * value) for full, value in points if value is not None)
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=5, label=kind)
        if rows[0][name] is not None:
            axes.axhline(100 * rows[0][name], color=FAINT, linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("Full layers")
        axes.invert_xaxis()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    drawing.suptitle(f"{model['name']}, {model['layers']} layers (dashed: all Full)", fontsize=10)
    drawing.savefig(path)
