"""Judge chosen patterns on live engines: held-out loss by position, needle accuracy, recall.

The shape of the paper's training-free table. Every forward is journalled, so that hours of it can be resumed.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.needles import Needle, Needles
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.live.side_by_side import side_by_side
from sgl_indexcache.overlap import measure
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.quality.errors import QualityError
from sgl_indexcache.search.budget import full_layers
from sgl_indexcache.search.journal import Journal


@dataclass(frozen=True, slots=True)
class Row:
    """A pattern to judge. `kind`: full, uniform, searched or given; `name`: as the table shows it."""

    name: str
    kind: str
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Tasks:
    """What every pattern is judged by.

    held_out        sequences for the loss
    needles         may be None
    recall_tokens   recall is measured on so many tokens
    recall_samples  of the first so many sequences
    recall_rows     queries of each that are compared
    """

    held_out: Sequences
    needles: Needles | None = None
    recall_tokens: int = 2048
    recall_samples: int = 4
    recall_rows: int = 128

    def units(self) -> int:
        """Forwards for one pattern."""
        needles = len(self.needles.tasks) if self.needles else 0
        return len(self.held_out.ids) + needles + len(self.recall_ids())

    def longest(self) -> int:
        """Tokens of the longest request, output included."""
        needles = self.needles.tasks if self.needles else []
        return max([*map(len, self.held_out.ids), *(len(task.ids) + task.new_tokens for task in needles)]) + 1

    def recall_ids(self) -> list[tuple[int, ...]]:
        """The sequences that recall is measured on."""
        return [ids[: self.recall_tokens] for ids in self.held_out.ids[: self.recall_samples]]


def rows_of(model: ModelFacts, search: Path | None, budgets: Sequence[str]) -> list[Row]:
    """All Full, and for every budget the uniform pattern of SGLang's rule and the searched one.

    search   a search.json; None leaves the searched rows out
    budgets  such as 1/2 and 1/4

    Raises:
        SearchError: a budget is not understood.
        QualityError: the search is of another model, or did not reach a budget.
    """
    rows = [Row("DSA (all Full)", "full", Pattern("F" * model.layers))]
    searched = _budgets_of(model, search) if search else {}
    for budget in budgets:
        full = full_layers(budget, model.layers)
        if budget.startswith("1/"):
            rows.append(Row(f"{budget} uniform", "uniform", Pattern.uniform(model.layers, int(budget[2:]))))
        if search:
            if str(full) not in searched:
                raise QualityError(
                    f"{search.name} holds no pattern of {full} Full layers ({budget}): search with a smaller --keep"
                )
            rows.append(Row(f"{budget} searched", "searched", Pattern(searched[str(full)]["pattern"])))
    return rows


def _budgets_of(model: ModelFacts, path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
        fingerprint, budgets = report["model"]["fingerprint"], dict(report["budgets"])
    except (OSError, ValueError, KeyError, TypeError):
        raise QualityError(f"{path} is no search.json: give the file that sgl-indexcache search wrote") from None
    if fingerprint != model.fingerprint:
        raise QualityError(f"{path} was searched on another model than {model.name}: search again")
    return budgets


def edges(top_k: int, longest: int) -> list[int]:
    """Ends of the position ranges that the loss is split into: k, 2k, 4k, ... up to the longest sequence."""
    return [*itertools.takewhile(lambda edge: edge < longest, (top_k << step for step in range(40))), longest]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One row's figures; arrays by position range, by needle, by layer."""

    row: Row
    loss: float
    loss_by_range: list[float]
    solved: list[bool]
    recall: np.ndarray
    """float64 `[L]`: share of the all-Full run's selections, mean over sequences and sampled queries"""


def judge(
    model: ModelFacts,
    rows: Sequence[Row],
    tasks: Tasks,
    engines: Sequence[Engine],
    journal: Journal,
    done: Callable[[float | None], None] = lambda _: None,
) -> list[Judgement]:
    """Judge every row; the rows are shared among the engines. `done`: called after each forward, with its seconds."""
    patterns = list(dict.fromkeys(row.pattern for row in rows))
    reference = _reference(model, tasks, engines[0], journal, patterns)

    def work(pattern: Pattern, engine: Engine) -> None:
        _Bench(model, tasks, engine, journal, done).run(pattern, reference)

    side_by_side(patterns, engines, work)
    return [_gather(row, tasks, journal) for row in rows]


def header(model: ModelFacts, tasks: Tasks, settings: dict[str, Any]) -> dict[str, Any]:
    """What a quality journal belongs to."""
    return {
        "model": model.fingerprint,
        "held_out": tasks.held_out.fingerprint,
        "needles": tasks.needles.described()["fingerprint"] if tasks.needles else None,
        "recall": [tasks.recall_tokens, tasks.recall_samples, tasks.recall_rows],
        "settings": settings,
    }


class _Bench:
    """The forwards of one pattern on one engine, switched to it when the first of them is not in the journal."""

    def __init__(
        self,
        model: ModelFacts,
        tasks: Tasks,
        engine: Engine,
        journal: Journal,
        done: Callable[[float | None], None],
    ) -> None:
        self._model, self._tasks, self._engine = model, tasks, engine
        self._journal, self._done = journal, done
        self._switched = False

    def run(self, pattern: Pattern, reference: list[np.ndarray]) -> None:
        longest = max(map(len, self._tasks.held_out.ids))
        for number, ids in enumerate(self._tasks.held_out.ids):
            self._unit(pattern, f"loss {number}", partial(self._loss, ids, longest))
        for number, task in enumerate(self._tasks.needles.tasks if self._tasks.needles else []):
            self._unit(pattern, f"needle {number}", partial(self._needle, task))
        for number, ids in enumerate(self._tasks.recall_ids()):
            self._unit(pattern, f"recall {number}", partial(self._recall, pattern, ids, reference[number]))

    def _unit(self, pattern: Pattern, name: str, measure_it: Callable[[], dict[str, Any]]) -> None:
        key = f"{pattern} {name}"
        if self._journal.get(key) is not None:
            self._done(None)
            return
        begin = time.monotonic()
        if not self._switched:
            self._engine.switch(pattern)
            self._switched = True
        self._journal.put(key, measure_it())
        self._done(time.monotonic() - begin)

    def _loss(self, ids: Sequence[int], longest: int) -> dict[str, Any]:
        nll = -self._engine.score(ids)
        # Token p has p tokens before it; nll[i] belongs to token i + 1.
        bounds = [0, *(edge - 1 for edge in edges(self._model.top_k, longest))]
        parts = [nll[first:end] for first, end in itertools.pairwise(bounds)]
        return {"sums": [float(part.sum()) for part in parts], "counts": [len(part) for part in parts]}

    def _needle(self, task: Needle) -> dict[str, Any]:
        return {"solved": task.ask(self._engine)}

    def _recall(self, pattern: Pattern, ids: Sequence[int], reference: np.ndarray) -> dict[str, Any]:
        if pattern.is_all_full:  # it is the reference
            return {"by_layer": [1.0] * self._model.layers}
        rows = _rows(self._model, self._tasks, ids)
        selections = self._engine.selections(ids, self._model.layers, self._model.top_k)[rows]
        return {"by_layer": measure.recall(selections, reference, rows + 1).tolist()}


def _rows(model: ModelFacts, tasks: Tasks, ids: Sequence[int]) -> np.ndarray:
    return measure.sparse_rows(len(ids), model.top_k, tasks.recall_rows)


def _reference(
    model: ModelFacts, tasks: Tasks, engine: Engine, journal: Journal, patterns: Sequence[Pattern]
) -> list[np.ndarray]:
    """Selections int32 `[R, L, k]` of the all-Full run, by sequence; left out when the journal has it all."""
    sequences = tasks.recall_ids()
    keys = [f"{pattern} recall {number}" for pattern in patterns for number in range(len(sequences))]
    if all(journal.get(key) is not None for key in keys):
        return [np.empty(0)] * len(sequences)
    engine.switch(Pattern("F" * model.layers))
    return [engine.selections(ids, model.layers, model.top_k)[_rows(model, tasks, ids)].copy() for ids in sequences]


def _gather(row: Row, tasks: Tasks, journal: Journal) -> Judgement:
    def records(kind: str, count: int) -> list[dict[str, Any]]:
        kept = [journal.get(f"{row.pattern} {kind} {number}") for number in range(count)]
        return [record for record in kept if record is not None]

    losses = records("loss", len(tasks.held_out.ids))
    sums = np.sum([record["sums"] for record in losses], axis=0)
    counts = np.sum([record["counts"] for record in losses], axis=0)
    needles = records("needle", len(tasks.needles.tasks) if tasks.needles else 0)
    recalls = records("recall", len(tasks.recall_ids()))
    return Judgement(
        row=row,
        loss=float(sums.sum() / counts.sum()),
        loss_by_range=[float(value) for value in sums / np.maximum(counts, 1)],
        solved=[bool(record["solved"]) for record in needles],
        recall=np.mean([record["by_layer"] for record in recalls], axis=0),
    )
