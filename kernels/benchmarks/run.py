"""How the benchmarks are run: calls timed in turns, figures printed and written; nothing that is wrong is timed."""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.kernels.benchmarks.problem import Case, Problem
from sgl_indexcache.results import write_json

WARM_UPS = 2
"""First rounds, not counted."""
ABSENT = "absent: "
"""Begins the reason why a rival cannot be measured: it is not installed."""

Call = Callable[[int], Any]
"""Runs one layer by its number."""


@dataclass
class Candidates:
    """The calls that are right at a shape; why others are wrong or absent; and parts, which nobody checks."""

    right: dict[str, Call] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Call] = field(default_factory=dict)

    def add(self, name: str, build: Callable[[], Call], wrong: Callable[[Call], str | None]) -> None:
        """Build a call and check it; one that does not run must not cost the others their measurement."""
        try:
            call = build()
            reason = wrong(call)
        except ImportError as missing:
            reason = f"{ABSENT}{missing}"
        except Exception as failure:
            reason = f"{type(failure).__name__}: {str(failure)[:200]}"
        if reason is None:
            self.right[name] = call
        else:
            self.reasons[name] = reason

    @property
    def failed(self) -> dict[str, str]:
        """Why what is installed is wrong."""
        return {name: reason for name, reason in self.reasons.items() if not reason.startswith(ABSENT)}


def timed(calls: Mapping[str, Call], layers: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of a layer of every call, in turns, so that a drift of the machine meets them alike; in CUDA graphs
    over all layers, so that no launch waits for the host."""
    graphs = {name: _graph(call, layers) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for nth in range(repeats + WARM_UPS):
        for name, graph in graphs.items():
            ms = milliseconds(graph.replay)
            if nth >= WARM_UPS:
                samples[name].append(ms / layers)
    return samples


def _graph(call: Call, layers: int) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        call(0)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(layers):
            call(layer)
    return graph


def milliseconds(run: Callable[[], Any]) -> float:
    """Device time of what is launched."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def command(doc: str, repeats: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser


def require_cuda() -> None:
    """Exit with a sentence where there is nothing to measure."""
    if not torch.cuda.is_available():
        sys.exit("the kernels run on CUDA; there is none here")


def run(
    name: str, options: argparse.Namespace, cases: Iterable[Case], candidates: Callable[[Problem], Candidates]
) -> None:
    """Check and time the candidates at every shape; print, write to `options.out`, exit 1 if something was wrong.

    The JSON has the envelope of every result, and `results`: {phase, rows, keys, heads, shared, name, ms (median), low,
    high, correct}; `correct` is null for parts, and false, with `why`, for what was not timed.
    """
    require_cuda()
    results: list[dict[str, Any]] = []
    failed = False
    for case in cases:
        print(f"{case.phase} {case.rows} x {case.keys} x {case.heads} heads{' shared' * case.shared}", flush=True)
        p = Problem(case)
        checked = candidates(p)
        for label, samples in timed({**checked.right, **checked.parts}, len(p.caches), options.repeats).items():
            figures = {"ms": statistics.median(samples), "low": min(samples), "high": max(samples)}
            correct = True if label in checked.right else None
            results.append({**asdict(case), "name": label, **figures, "correct": correct})
            print("  {:44} {ms:8.4f} ms  ({low:.4f} to {high:.4f})".format(label, **figures), flush=True)
        for label, reason in checked.reasons.items():
            correct = False if label in checked.failed else None
            results.append({**asdict(case), "name": label, "ms": None, "correct": correct, "why": reason})
            print(f"  {label:44} {reason if correct is None else 'incorrect: ' + reason}", flush=True)
        failed = failed or bool(checked.failed)
        del p, checked
        torch.cuda.empty_cache()
    write(name, options.out, results)
    if failed:
        sys.exit(1)


def write(name: str, out: Path | None, results: Sequence[Mapping[str, Any]]) -> None:
    """Write the results of a benchmark, if a file was asked for."""
    if out:
        write_json(out, f"sgl_indexcache.kernels.{name}/1", {"results": list(results)}, on_device=True)
