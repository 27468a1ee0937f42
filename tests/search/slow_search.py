"""A search with made-up losses that take their time; run and killed by the tests. Use: OUT SECONDS WORKERS."""

import hashlib
import sys
import time
from pathlib import Path

from rich.console import Console

from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.search.evaluate import Evaluation
from sgl_indexcache.search.run import Plan, search


class Slow:
    """A loss that is a hash of the pattern."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def evaluate(self, pattern: Pattern) -> Evaluation:
        time.sleep(self.seconds)
        loss = int.from_bytes(hashlib.sha256(str(pattern).encode()).digest()[:4], "big") / 2**32
        return Evaluation(loss, [loss], self.seconds)


def main(out: Path, seconds: float, workers: int) -> None:
    model = ModelFacts(Path("none"), "none", layers=8, top_k=4, vocabulary=9, context=None, fingerprint="none")
    outcome = search(
        model,
        Sequences("none", ((1, 2, 3, 4, 5),)),
        Plan(keep=2),
        [Slow(seconds) for _ in range(workers)],
        out,
        settings={},
        console=Console(stderr=True),
    )
    print(outcome.pattern)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
