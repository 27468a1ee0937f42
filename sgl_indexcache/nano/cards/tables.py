"""The figures of the model's card, read from the raw files, and as Markdown tables."""

import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

RUN = "2026-11-23-h200"
"""Date and device of the training run, with which its raw files' names begin."""
COMMANDS = {"train": "train", "evaluate": "evaluate", "distilled": "distill"}
"""Modules that were commands of their own when raw files were written, and today's subcommands."""
TAIL = 5
"""Log lines at a phase's end whose mean stands in the table; one line covers about 20 steps."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured; see `read`.

    log         lines of metrics.jsonl
    evaluation  of the final weights
    manifest    the corpus
    plan        steps of every phase and how far training came
    runs        commands, machine, times
    config      the checkpoint's
    weights     bytes
    """

    log: list[dict[str, Any]]
    evaluation: dict[str, Any]
    manifest: dict[str, Any]
    plan: dict[str, Any]
    runs: dict[str, Any]
    config: dict[str, Any]
    weights: int


def read(raw: Path, checkpoint: Path) -> Figures:
    """The raw files of `raw` and the checkpoint's config and size."""

    def load(path: Path) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(path.read_text())
        return figures

    # The first line of a raw JSONL file is its envelope: schema, machine, versions.
    log = [json.loads(line) for line in (raw / f"{RUN}-metrics.jsonl").read_text().splitlines()[1:]]
    return Figures(
        log=log,
        evaluation=load(raw / f"{RUN}-evaluation.json"),
        manifest=load(raw / f"{RUN}-manifest.json"),
        plan=load(raw / f"{RUN}-plan.json"),
        runs=load(raw / f"{RUN}-runs.json"),
        config=load(checkpoint / "config.json"),
        weights=(checkpoint / "model.safetensors").stat().st_size,
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def today(command: str) -> str:
    """A command line as it would be given today; raw files keep the one that was run."""
    return re.sub(r"(-m sgl_indexcache\.nano)\.(\w+)", lambda match: f"{match[1]} {COMMANDS[match[2]]}", command)


def lower_bound(hits: int, tries: int) -> float:
    """Wilson's lower bound, 95%, two-sided, of a share that was `hits` in `tries`."""
    z = 1.96
    share = hits / tries
    middle = share + z * z / (2 * tries)
    spread = z * ((share * (1 - share) + z * z / (4 * tries)) / tries) ** 0.5
    return float((middle - spread) / (1 + z * z / tries))


def phases_table(figures: Figures) -> str:
    """One row a phase: steps, time, and the figures of its last log lines."""
    rows = []
    before = 0.0
    planned = iter(figures.plan["steps"])
    for name, group in groupby(figures.log, key=lambda line: str(line["phase"])):
        lines = list(group)
        tail = lines[-TAIL:]
        steps, last = next(planned), lines[-1]

        def mean(kind: str, tail: list[dict[str, Any]] = tail) -> float:
            return float(sum(line[kind] for line in tail) / len(tail))

        indexers = not name.startswith("dense")
        rows.append(
            [
                name,
                f"{steps:,}",
                f"{last['seconds'] - before:.0f}",
                f"{last['tokens_per_s'] / 1e3:,.0f}",
                f"{mean('text'):.3f}",
                f"{mean('digits'):.4f}",
                f"{mean('kl'):.4f}" if indexers else "",
                f"{mean('mass'):.3f}" if name.startswith("warmup") else "",
            ]
        )
        before = last["seconds"]
    head = ["phase", "steps planned", "s", "thousand bytes/s", "loss of text", "of asked digits", "KL", "mass"]
    return table(head, rows)


def sources_table(manifest: dict[str, Any]) -> str:
    """The corpus, package by package."""
    rows = [
        [source["package"], source["version"], source["licence"], f"{source['bytes'] / 1e6:.2f}"]
        for source in manifest["sources"]
    ]
    return table(["Debian package", "version", "licence", "MB of text"], rows)


def loss_table(evaluation: dict[str, Any]) -> str:
    """Held-out loss by length."""
    rows = []
    for length in map(str, evaluation["lengths"]):
        dense, sparse = (evaluation[kind]["loss"][length] for kind in ("dense", "sparse"))
        change = sparse["loss"] / dense["loss"] - 1
        rows.append(
            [
                length,
                str(dense["sequences"]),
                f"{dense['loss']:.4f}",
                f"{sparse['loss']:.4f}",
                f"{100 * change:+.2f}%",
            ]
        )
    return table(["context, bytes", "windows", "dense", "sparse", "sparse against dense"], rows)


def needle_table(evaluation: dict[str, Any]) -> str:
    """Needles found by length, alone and among others."""
    rows = []
    for kind, title in (("needle", "alone"), ("needle_among_7", "among 7 others")):
        for length, dense in evaluation["dense"][kind].items():
            sparse = evaluation["sparse"][kind][length]
            hits = round(sparse["accuracy"] * sparse["asked"])
            rows.append(
                [
                    f"{length}, {title}",
                    str(sparse["asked"]),
                    percent(dense["accuracy"]),
                    percent(sparse["accuracy"]),
                    f"at least {percent(lower_bound(hits, sparse['asked']))}",
                    percent(min(sparse["by_depth"])),
                ]
            )
    head = ["context, bytes", "asked", "dense", "sparse", "sparse, 95% interval", "sparse, worst depth"]
    return table(head, rows)


def recall_table(evaluation: dict[str, Any]) -> str:
    """Recall of attention mass by length: mean and worst layer."""
    rows = []
    for length in map(str, evaluation["lengths"]):
        row = [length]
        for kind in ("text", "answers"):
            recall = evaluation["recall"][length][kind]
            worst = min(range(len(recall["mass"])), key=recall["mass"].__getitem__)
            row += [f"{recall['mean_mass']:.3f}", f"{recall['mass'][worst]:.3f} (layer {worst})"]
        rows.append(row)
    return table(["context, bytes", "text, mean", "text, worst", "answers, mean", "answers, worst"], rows)
