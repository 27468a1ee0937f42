"""From patterns to losses: what the journal knows is taken from it, the rest is measured side by side."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.live.side_by_side import side_by_side
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search.errors import SearchError
from sgl_indexcache.search.journal import Journal


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A measured pattern.

    loss       mean next-token negative log-likelihood over all tokens, in nats
    sequences  the same mean for each sequence
    seconds    how long it took, the switch included
    """

    loss: float
    sequences: list[float]
    seconds: float


class Worker(Protocol):
    """Something that measures one pattern at a time."""

    def evaluate(self, pattern: Pattern) -> Evaluation: ...


class EngineWorker:
    """Measures on one engine, over fixed sequences."""

    def __init__(self, engine: Engine, sequences: Sequences) -> None:
        self._engine = engine
        self._sequences = sequences

    def evaluate(self, pattern: Pattern) -> Evaluation:
        begin = time.monotonic()
        self._engine.switch(pattern)
        sums, counts = [], []
        for ids in self._sequences.ids:
            log_probs = self._engine.score(ids)
            sums.append(-float(log_probs.sum()))
            counts.append(len(log_probs))
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        return Evaluation(sum(sums) / sum(counts), means, time.monotonic() - begin)


class Evaluator:
    """`greedy.Evaluate` over several workers and a journal.

    report  called after every loss with its evaluation, and whether it stood in the journal
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        journal: Journal,
        report: Callable[[Evaluation, bool], None] = lambda *_: None,
    ) -> None:
        self._workers = workers
        self._journal = journal
        self._report = report
        self._lock = threading.Lock()
        self.measured = 0
        self.seconds = 0.0
        """measured patterns and the time of all of them together"""

    def __call__(self, patterns: Sequence[Pattern]) -> list[float]:
        missing = [pattern for pattern in dict.fromkeys(patterns) if self._journal.get(str(pattern)) is None]
        for pattern in patterns:
            if pattern not in missing:
                self._report(self._known(pattern), True)
        side_by_side(missing, self._workers, self._measure)
        return [self._known(pattern).loss for pattern in patterns]

    def _measure(self, pattern: Pattern, worker: Worker) -> None:
        evaluation = worker.evaluate(pattern)
        if not math.isfinite(evaluation.loss):
            raise SearchError(
                f"the loss of {pattern} is {evaluation.loss}: the model or the calibration data is broken"
            )
        self._journal.put(str(pattern), asdict(evaluation))
        with self._lock:
            self.measured += 1
            self.seconds += evaluation.seconds
        self._report(evaluation, False)

    def _known(self, pattern: Pattern) -> Evaluation:
        record = self._journal.get(str(pattern))
        assert record is not None
        return Evaluation(**record)
