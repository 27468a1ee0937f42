"""Curves of distillation runs from their logs, as PNG."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sgl_indexcache.results import figure


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def curves(path: Path, logs: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Mean divergence of the retained indexers in stage 1 (left) and loss of the language model in stage 2 (right),
    over the steps; one line a run."""
    drawn = figure(10.0, 4.0)
    left, right = drawn.subplots(1, 2)
    for name, lines in logs.items():
        warm = [line for line in lines if line["stage"] == "warmup"]
        sparse = [line for line in lines if line["stage"] == "sparse"]
        if warm:
            kl = [sum(line["kl"]) / len(line["kl"]) for line in warm]
            left.plot([line["step"] for line in warm], kl, label=name, linewidth=1)
        if sparse:
            right.plot([line["step"] for line in sparse], [line["lm"] for line in sparse], label=name, linewidth=1)
    left.set_yscale("log")
    left.set_title("stage 1: KL, nats, mean of the retained indexers", fontsize=10)
    right.set_title("stage 2: loss of the language model, weighted, nats", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    drawn.savefig(path)
