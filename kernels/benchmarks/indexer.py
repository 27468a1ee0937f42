"""Time the indexer on CUDA: score and select, ours in several cuts, beside DeepGEMM with sgl-kernel's top-k.

    python -m sgl_indexcache.kernels.benchmarks.indexer --out indexer.json         # everything, about two minutes
    python -m sgl_indexcache.kernels.benchmarks.indexer --only decode --parts      # some shapes, and each half alone
    python -m sgl_indexcache.kernels.benchmarks.indexer --cuts ours --parts        # one cut: others take a minute each

First every variant is checked on rows of each shape against float64; a wrong one is called `incorrect` and is not
timed. Then all that are right take turns, so that a drift of the machine meets them alike; medians, lowest, highest.
All run in CUDA graphs, decode over the caches of several layers, so that nothing is found in L2 that would not be there
while serving. SGLang's gather of scattered keys before a prefill is not counted against it. The JSON is a list of
{phase, rows, keys, heads, shared, name, ms, low, high, correct}.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.kernels.benchmarks.problem import (
    BUDGET,
    CHECKED_ROWS,
    Call,
    Case,
    K,
    Problem,
    deep_gemm_logits,
    flashinfer,
    ours,
    sglang,
    timed,
    wrong,
)
from sgl_indexcache.kernels.score.cuda import BLOCK, DEFAULT, Shape, padded, score
from sgl_indexcache.kernels.score_select.cuda import rows_at_once
from sgl_indexcache.kernels.select.cuda import Cut, select
from sgl_indexcache.kernels.select.reference import select as select_reference

CUTS = {
    "ours": (DEFAULT, None),
    "ours, 2 stages": (Shape(stages=2), None),
    "ours, 4 stages": (Shape(stages=4), None),
    "ours, 128 registers": (Shape(registers=128), None),
    "ours, keys through registers": (Shape(through_registers=True), None),
    "ours, keys through registers, 4 stages": (Shape(through_registers=True, stages=4), None),
    "ours, 256 columns, 8 warps": (Shape(columns=256, warps=8), None),
    "ours, 256 columns, 4 warps": (Shape(columns=256, warps=4), None),
    "ours, select with 8 warps": (DEFAULT, Cut(8)),
    "ours, select with 32 warps": (DEFAULT, Cut(32)),
}
CASES = (
    Case("prefill", 4096, 200_000, 32),
    Case("prefill", 1024, 200_000, 32),
    Case("prefill", 4096, 20_000, 32),
    Case("prefill", 4096, 128_000, 64),
    Case("decode", 1, 120_000, 32),
    Case("decode", 8, 120_000, 32, shared=True),
    Case("decode", 32, 120_000, 32, shared=True),
    Case("decode", 32, 120_000, 32),
)


def halves(p: Problem) -> dict[str, Callable[[int], Any]]:
    """Each half of ours and of SGLang's alone, over the rows that one budget holds; the others repeat it."""
    rows = min(p.case.rows, rows_at_once(p.case.rows, p.max_length, BUDGET, p.q.device))
    width = padded(p.max_length)
    logits = torch.empty(rows, width, device="cuda")
    maxima = torch.empty(rows, width // BLOCK, device="cuda")
    part = slice(0, rows)

    def scored(layer: int) -> torch.Tensor:
        return score(
            p.q[part], p.weights[part], p.caches[layer], p.table, p.request[part], p.lengths[part],
            max_length=p.max_length, out=logits, maxima=maxima,
        )  # fmt: skip

    scored(0)
    found: dict[str, Callable[[int], Any]] = {
        f"score of {rows} rows": scored,
        f"select of {rows} rows": lambda layer: select(
            logits, p.lengths[part], K, max_length=p.max_length, maxima=maxima
        ),
    }
    try:
        from sgl_kernel import fast_topk_v2

        found[f"fast_topk_v2 of {rows} rows"] = lambda layer: fast_topk_v2(logits, p.lengths[part], K)
        found[f"DeepGEMM of {p.case.rows} rows"] = deep_gemm_logits(p)
    except ImportError as missing:
        print(f"  absent: {missing}")
    return found


def exact(p: Problem) -> str | None:
    """Why select differs from its reference on the very logits that score wrote, for some rows; None if it does not."""
    rows = min(CHECKED_ROWS, p.case.rows)
    logits = score(
        p.q[:rows], p.weights[:rows], p.caches[0], p.table, p.request[:rows], p.lengths[:rows], max_length=p.max_length
    )
    # Coarse scores tie by the thousand.
    for scores in (logits, (logits * 4).round()):
        want = select_reference(scores.cpu().clone(), p.lengths[:rows].cpu(), K)
        if not torch.equal(select(scores.contiguous(), p.lengths[:rows], K).cpu(), want):
            return "select differs from its reference"
    return None


def cuts_of(case: Case) -> list[str]:
    """The variants worth their compilation at a shape: a kernel's compilation takes longer than its measurement."""
    names = list(CUTS)
    if case.heads != 32:
        return [name for name in names if "stages" not in name and "select" not in name]
    if case.phase == "decode":
        return [name for name in names if name not in ("ours, 2 stages", "ours, keys through registers, 4 stages")]
    return [name for name in names if "select" not in name or case == CASES[0]]


def candidates(p: Problem, cuts: Sequence[str], peers: bool) -> Iterator[tuple[str, Callable[[], Call]]]:
    for name in cuts:
        shape, cut = CUTS[name]
        yield name, lambda shape=shape, cut=cut: ours(p, shape, cut)
    yield "sglang", lambda: sglang(p)
    if peers:
        yield "DeepGEMM + flashinfer.top_k", lambda: flashinfer(p)


def checked(
    p: Problem, cuts: Sequence[str], peers: bool = False
) -> tuple[dict[str, Callable[[int], Any]], dict[str, str]]:
    """The calls that are right, and why the others are not."""
    right: dict[str, Callable[[int], Any]] = {}
    reasons: dict[str, str] = {}
    for name, build in candidates(p, cuts, peers):
        try:
            call = build()
            reason = wrong(p, call) or (exact(p) if name == "ours" else None)
        except ImportError as missing:
            reasons[name] = f"absent: {missing}"
            continue
        except Exception as failure:  # one variant that does not run must not cost the others their measurement
            reason = f"{type(failure).__name__}: {str(failure)[:200]}"
        if reason is None:
            right[name] = call
        else:
            reasons[name] = reason
    return right, reasons


def measure() -> Iterator[dict[str, Any]]:
    """For `sgl-indexcache bench kernels`: ours as it is served, and SGLang's, in microseconds."""
    if not torch.cuda.is_available():
        print("indexers: nothing to measure without CUDA", file=sys.stderr)
        return
    for case in CASES:
        if case.shared and any(other.rows == case.rows and not other.shared for other in CASES):
            continue  # the table of choices knows no sharing: requests that share nothing speak for both
        p = Problem(case)
        right, reasons = checked(p, ["ours"])
        us = {name: [1000 * value for value in taken] for name, taken in timed(p, right, 15).items()}
        failed = {name: reason for name, reason in reasons.items() if not reason.startswith("absent")}
        yield {
            "phase": case.phase, "heads": case.heads, "rows": case.rows, "keys": case.keys, "us": us, "wrong": failed
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("prefill", "decode"), help="one phase")
    parser.add_argument("--parts", "--profile", action="store_true", help="time score and select alone too")
    parser.add_argument("--cuts", nargs="+", choices=CUTS, metavar="CUT", help="these cuts of ours; default all")
    parser.add_argument("--cases", nargs="+", type=int, metavar="N", help="these of the shapes, from 0; default all")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("the indexer kernels run on CUDA; there is none here")
    results: list[dict[str, Any]] = []
    for case in CASES:
        if options.only not in (None, case.phase) or (options.cases and CASES.index(case) not in options.cases):
            continue
        p = Problem(case)
        label = " shared" if case.shared else ""
        print(f"{case.phase} {case.rows} x {case.keys} x {case.heads} heads{label}", flush=True)
        right, reasons = checked(p, options.cuts or cuts_of(case), not options.cuts)
        calls = {**right, **(halves(p) if options.parts else {})}
        shape = {"phase": case.phase, "rows": case.rows, "keys": case.keys, "heads": case.heads, "shared": case.shared}
        for name, taken in timed(p, calls, options.repeats).items():
            ms = statistics.median(taken)
            results.append(
                {
                    **shape,
                    "name": name,
                    "ms": ms,
                    "low": min(taken),
                    "high": max(taken),
                    "correct": True if name in right else None,
                }
            )
            print(f"  {name:42} {ms:8.4f} ms  ({min(taken):.4f} to {max(taken):.4f})", flush=True)
        for name, reason in reasons.items():
            absent = reason.startswith("absent")
            results.append({**shape, "name": name, "ms": None, "correct": None if absent else False, "why": reason})
            print(f"  {name:42} {reason if absent else 'incorrect: ' + reason}", flush=True)
        del p, calls, right
        torch.cuda.empty_cache()
    if options.out:
        versions = {
            name: _version(name) for name in ("torch", "triton", "sgl-kernel", "deep-gemm", "flashinfer-python")
        }
        machine = {"device": torch.cuda.get_device_name(), "versions": versions}
        options.out.write_text(
            json.dumps({"schema": "sgl_indexcache.indexer/1", **machine, "results": results}, indent=1)
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
