"""Write docs/results/distill.md from the raw figures: `python -m sgl_indexcache.nano distill-card`.

Reads what the command `distill` wrote and `--run OUT` keeps in docs/results/raw/distill; draws the curves to
docs/results/plots. The same figures give the same page. Needs matplotlib, not torch.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sgl_indexcache.distill.plot import curves, read_log
from sgl_indexcache.errors import UserError
from sgl_indexcache.nano.cards.tables import percent, table, today

RESULTS = Path("docs/results")
GOAL = 0.003
"""Largest rise of the held-out loss over full DSA that the paper's result allows."""
TITLES = {
    "full": "full DSA",
    "uniform-1-2": "uniform 1/2",
    "uniform-1-4": "uniform 1/4",
    "uniform-1-8": "uniform 1/8",
    "distilled-1-2": "uniform 1/2, stage 1",
    "distilled-1-4": "uniform 1/4, stage 1",
    "own-layer-1-2": "uniform 1/2, stage 1 without the cross-layer term",
    "own-layer-1-4": "uniform 1/4, stage 1 without the cross-layer term",
    "distilled-1-2-sparse": "uniform 1/2, stages 1 and 2",
    "distilled-1-4-sparse": "uniform 1/4, stages 1 and 2",
    "full-sparse": "full DSA, stage 2 alone (control)",
}
ORDER = tuple(TITLES)
RUN = "2026-11-24-h100"
"""Date and device of the runs, with which their raw files' names begin."""
RAW = Path("raw") / "distill"
RUNS = RAW / f"{RUN}-runs.jsonl"


def result_path(name: str) -> Path:
    """A system's figures, from the page's folder."""
    return RAW / f"{RUN}-{name}.json"


def log_path(name: str) -> Path:
    """A system's log of training; its first line is the envelope: schema, machine, versions."""
    return RAW / f"{RUN}-{name}-log.jsonl"


def title(name: str) -> str:
    """How the page calls a system."""
    return TITLES.get(name, name.replace("-", " "))


def keep(run: Path, results: Path) -> None:
    """Keep a run's figures and logs as raw files of `results`, each with schema, machine and versions."""
    last = read_log(run / "runs.jsonl")[-1]
    about = {"machine": {"device": last["machine"]}, "versions": {"torch": last["torch"]}}
    (results / RAW).mkdir(parents=True, exist_ok=True)

    def with_envelope(lines: Path, schema: str) -> str:
        return json.dumps({"schema": schema, **about}) + "\n" + lines.read_text()

    (results / RUNS).write_text(with_envelope(run / "runs.jsonl", "sgl_indexcache.nano.distilled.runs/1"))
    for path in sorted(run.glob("*/result.json")):
        name, log = path.parent.name, path.with_name("log.jsonl")
        (results / result_path(name)).write_text(path.read_text())
        if log.exists():
            (results / log_path(name)).write_text(with_envelope(log, "sgl_indexcache.distill.log/1"))


def read(folder: Path) -> list[dict[str, Any]]:
    """All systems' results: full first, then by what was done to them."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{RUN}-*.json"))]
    if not any(each["name"] == "full" for each in results):
        raise UserError(f"{folder} holds no result of full DSA: copy the results of a run there")
    return sorted(results, key=lambda each: ORDER.index(each["name"]) if each["name"] in ORDER else 2.5)


def loss_of(result: dict[str, Any]) -> float:
    """Held-out loss at the longest length."""
    longest = max(result["loss"], key=int)
    return float(result["loss"][longest]["loss"])


def results_table(results: list[dict[str, Any]]) -> str:
    """One row a system."""
    base = {length: entry["loss"] for length, entry in results[0]["loss"].items()}
    rows = []
    for result in results:
        row = [f"[{title(result['name'])}]({result_path(result['name'])})", f"`{result['pattern']}`"]
        for length, entry in result["loss"].items():
            row.append(f"{entry['loss']:.4f} ({100 * (entry['loss'] / base[length] - 1):+.2f}%)")
        row += [percent(result[kind]["accuracy"]) for kind in ("needle", "needle_among_7")]
        row += [f"{result['recall'][kind]['mean_mass']:.3f}" for kind in ("text", "answers")]
        rows.append(row)
    head = ["", "pattern", *(f"loss at {length}" for length in base)]
    return table([*head, "needles", "among 7", "mass, text", "mass, answers"], rows)


def verdicts(results: list[dict[str, Any]]) -> list[str]:
    """The goals, each with what was measured."""
    by_name = {each["name"]: each for each in results}
    full = loss_of(by_name["full"])
    lines = []
    for name in ("distilled-1-4", "distilled-1-4-sparse"):
        if name not in by_name:
            lines.append(f"{title(name)}: not measured.")
            continue
        rise = loss_of(by_name[name]) / full - 1
        reached = "reached" if rise <= GOAL else "missed"
        lines.append(
            f"{title(name)} within {percent(GOAL)} of full DSA in held-out loss: {100 * rise:+.2f}%, {reached}."
        )
    searched = [each for each in results if each["name"].startswith("searched-")]
    quarter = by_name.get("uniform-1-4")
    for each in searched:
        if quarter is None or each["pattern"].count("F") != quarter["pattern"].count("F"):
            continue
        for name in ("distilled-1-4", "distilled-1-4-sparse"):
            if name in by_name:
                loss, limit = loss_of(by_name[name]), loss_of(each)
                reached = "reached" if loss <= limit else "missed"
                lines.append(
                    f"{title(name)} not worse than the searched pattern of as many layers: {loss:.4f} against "
                    f"{limit:.4f}, {reached}."
                )
    for part in ("1-4", "1-2"):
        pair = [by_name.get(f"{kind}-{part}") for kind in ("uniform", "distilled", "own-layer")]
        if all(pair):
            before, cross, own = (loss_of(each) for each in pair if each)
            lines.append(
                f"Cross-layer term at uniform {part.replace('-', '/')}: the loss goes from {before:.4f} to {cross:.4f} "
                f"with it and to {own:.4f} without."
            )
    return lines


def page(results: list[dict[str, Any]], runs: list[dict[str, Any]]) -> str:
    """The Markdown page."""
    trained = [each for each in results if any(each["steps"].values())]
    rows = []
    for each in trained:
        counts = [str(each["steps"][stage]) for stage in ("warmup", "sparse")]
        rows.append([f"[{title(each['name'])}]({log_path(each['name'])})", *counts, f"{each['train_seconds']:.0f}"])
    steps = table(["", "steps of stage 1", "of stage 2", "s"], rows)
    last = runs[-1]
    seconds = sum(run["seconds"] for run in runs)
    plan = ", ".join(f"{name} {value}" for name, value in last["plan"].items())
    items = "\n".join(f"- {line}" for line in verdicts(results))
    sequences = next(iter(results[0]["loss"].values()))["sequences"]
    names = {each["name"] for each in results}
    left = [title(name) for name in ORDER if name not in names]
    missing = f"Not run, for want of time: {'; '.join(left)}." if left else "Every system of the command was run."
    return f"""# Distillation of the retained indexers of the nano model

Retained indexers learn from the attention of all layers that they serve (stage 1), then the whole model learns under
the shared selections (stage 2): `sgl-indexcache distill`, here through `sgl_indexcache.nano distill` on the
[nano model](nano.md). This page is generated from the raw files that its tables link: figures in the first, logs in the
second.

{items}

{results_table(results)}

Loss in nats a byte on held-out text, the same windows for every system ({sequences} at the shortest length); in
brackets the change against full DSA. Needles: facts found at the longest length, alone and among seven others
({results[0]["needle"]["asked"]} of each). Mass: share of dense attention on the selection that a layer uses, its
producer's, mean over layers; over queries anywhere in text, and over those that predict a value asked for.

![curves](plots/distill.png)

{steps}

- Stage 2 trains the rest of the model too, so its losses are to be compared with the control: full DSA trained for as
  many steps of stage 2.
- {missing}
- One seed, one order of the data. No interval was computed for the losses; differences of a few needles are noise.
- Stage 1's divergence is taken on sampled queries, half of them at answers; see `nano/divergence.py`.

| | |
|---|---|
| command | `{today(last["command"])}` |
| plan | {plan} |
| page | `python -m sgl_indexcache.nano distill-card` |
| machine | one {last["machine"]}, torch {last["torch"]}; {seconds:.0f} s in all, {len(runs)} run(s) |
| raw | [runs]({RUNS}), and the links in the tables |
"""


def command(
    results: Annotated[Path, typer.Option("--results", help="Folder of the page, raw and plots.")] = RESULTS,
    run: Annotated[Path | None, typer.Option("--run", help="OUT of a run whose figures are to be kept first.")] = None,
) -> None:
    """Write docs/results/distill.md and its curves from the raw figures."""
    if run is not None:
        keep(run, results)
    systems = read(results / RAW)
    logs = {title(r["name"]): results / log_path(r["name"]) for r in systems}
    lines = {name: read_log(path)[1:] for name, path in logs.items() if path.exists()}
    (results / "plots").mkdir(exist_ok=True)
    curves(results / "plots" / "distill.png", lines)
    (results / "distill.md").write_text(page(systems, read_log(results / RUNS)[1:]))
    print(results / "distill.md")
