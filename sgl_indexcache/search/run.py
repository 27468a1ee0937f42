"""One search from beginning to end, over any workers; cli/search.py brings them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console

from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.progress import Bar
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search import greedy, report
from sgl_indexcache.search.errors import SearchError
from sgl_indexcache.search.evaluate import Evaluation, Evaluator, Worker
from sgl_indexcache.search.journal import Journal
from sgl_indexcache.search.similarity import most_similar
from sgl_indexcache.search.uniform import uniform

Scorer = Literal["loss", "similarity", "uniform"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to search for.

    keep    Full layers to keep
    scorer  what chooses the Shared ones
    blocks  search so many consecutive blocks one by one; None sweeps all layers in every step
    """

    keep: int
    scorer: Scorer = "loss"
    blocks: int | None = None

    def __post_init__(self) -> None:
        if self.scorer not in get_args(Scorer):
            raise SearchError(f"scorer {self.scorer!r} is unknown: use {', '.join(get_args(Scorer))}")
        if self.blocks is not None and self.scorer != "loss":
            raise SearchError(f"blocks belong to the scorer loss: drop them for {self.scorer}")

    def forwards(self, layers: int) -> int:
        """Patterns to measure for a model of `layers` layers."""
        if self.scorer == "loss":
            return greedy.evaluations(layers, self.keep, self.blocks)
        return 2 if self.scorer == "uniform" else 1 + layers - self.keep


def search(
    model: ModelFacts,
    calibration: Sequences,
    plan: Plan,
    workers: Sequence[Worker],
    out: Path,
    *,
    settings: dict[str, Any],
    console: Console,
    similarity: Callable[[], np.ndarray] | None = None,
    draw: bool = True,
) -> report.Outcome:
    """Find a pattern and write search.json, indexcache.yaml and, with `draw`, loss.png into `out`.

    Resumes from out/journal.jsonl, which several plans may share: an evaluation belongs to model, calibration
    and engine settings, not to the plan that needs it.

    settings    the engines' settings, see Engine.facts
    similarity  float `[L, L]` from captured selections; needed by the scorer of that name
    """
    header = {"model": model.fingerprint, "calibration": calibration.fingerprint, "settings": settings}
    total = plan.forwards(model.layers)
    with Journal(out / "journal.jsonl", header) as journal:
        if known := len(journal):
            console.print(f"{known} evaluations are taken from the journal.")
        with Bar(console, "patterns", total, len(workers)) as bar:

            def advance(evaluation: Evaluation, from_journal: bool) -> None:
                bar.advance(None if from_journal else evaluation.seconds, f"loss {evaluation.loss:.5f}")

            evaluator = Evaluator(workers, journal, advance)
            steps, extra = _steps(model.layers, plan, evaluator, journal, similarity)
    outcome = report.Outcome(steps)
    report.write(
        out,
        model,
        calibration,
        outcome,
        settings={
            "scorer": plan.scorer,
            "keep": plan.keep,
            "blocks": plan.blocks,
            "engine": settings,
            "engines": len(workers),
        },
        extra=extra,
        evaluations={
            "asked": total,
            "measured_now": evaluator.measured,
            "seconds_measuring": round(evaluator.seconds, 1),
        },
        draw=draw,
    )
    return outcome


def _steps(
    layers: int,
    plan: Plan,
    evaluator: Evaluator,
    journal: Journal,
    similarity: Callable[[], np.ndarray] | None,
) -> tuple[list[greedy.Step], dict[str, Any]]:
    """The steps, and what else the report should hold."""
    if plan.scorer == "loss":
        if plan.blocks is None:
            return greedy.greedy(layers, plan.keep, evaluator), {}
        result = greedy.blockwise(layers, plan.keep, plan.blocks, evaluator)
        return result.steps, {"blocks": [[step.described() for step in block] for block in result.blocks]}
    if plan.scorer == "uniform":
        patterns = [Pattern("F" * layers), uniform(layers, plan.keep)]
        return [greedy.Step(pattern, evaluator([pattern])[0]) for pattern in patterns], {}
    record = journal.get("similarity")
    if record is None:
        assert similarity is not None
        record = {"matrix": similarity().tolist()}
        journal.put("similarity", record)
    chosen = most_similar(np.array(record["matrix"]), plan.keep)
    steps = [greedy.Step(pattern, evaluator([pattern])[0]) for pattern in chosen]
    return steps, {"similarity": record["matrix"]}
