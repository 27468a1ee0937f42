"""Time the indexer on CUDA: score and select, ours in several cuts, beside DeepGEMM with sgl-kernel's top-k.

    python -m sgl_indexcache.kernels.benchmarks.score_select --out FILE             # everything, about two minutes
    python -m sgl_indexcache.kernels.benchmarks.score_select --only decode --parts  # some shapes, and each half alone
    python -m sgl_indexcache.kernels.benchmarks.score_select --cuts ours            # the others take a minute each

First every variant is checked on rows of each shape against float64; a wrong one is called `incorrect` and is not
timed. Then all that are right take turns, so that a drift of the machine meets them alike; medians, lowest, highest.
All run in CUDA graphs, decode over the caches of several layers, so that nothing is found in L2 that would not be there
while serving. SGLang's gather of scattered keys before a prefill is not counted against it. The JSON: see run.run.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from sgl_indexcache.kernels.benchmarks import run
from sgl_indexcache.kernels.benchmarks.problem import (
    BUDGET,
    CHECKED_ROWS,
    Case,
    K,
    Problem,
    deep_gemm_logits,
    flashinfer,
    ours,
    sglang,
    wrong,
)
from sgl_indexcache.kernels.benchmarks.run import Call, Candidates, timed
from sgl_indexcache.kernels.score.cuda import DEFAULT, Shape, padded, score_paged
from sgl_indexcache.kernels.score_select.cuda import rows_at_once
from sgl_indexcache.kernels.select.cuda import BLOCK, Cut, select
from sgl_indexcache.kernels.select.reference import select as select_reference

REPEATS = 15
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


def halves(p: Problem) -> dict[str, Call]:
    """Each half of ours and of SGLang's alone, over the rows that one budget holds; the others repeat it."""
    rows = min(p.case.rows, rows_at_once(p.case.rows, p.max_length, BUDGET, p.q.device))
    width = padded(p.max_length)
    logits = torch.empty(rows, width, device="cuda")
    maxima = torch.empty(rows, width // BLOCK, device="cuda")
    part = slice(0, rows)

    def scored(layer: int) -> torch.Tensor:
        return score_paged(
            p.q[part], p.weights[part], p.caches[layer], p.table, p.request[part], p.lengths[part],
            max_length=p.max_length, out=logits, maxima=maxima,
        )  # fmt: skip

    def selected(layer: int) -> torch.Tensor:
        return select(logits, p.lengths[part], K, max_length=p.max_length, maxima=maxima)

    scored(0)
    calls: dict[str, Call] = {f"score of {rows} rows": scored, f"select of {rows} rows": selected}
    try:
        from sgl_kernel import fast_topk_v2

        calls[f"fast_topk_v2 of {rows} rows"] = lambda layer: fast_topk_v2(logits, p.lengths[part], K)
        calls[f"DeepGEMM of {p.case.rows} rows"] = deep_gemm_logits(p)
    except ImportError as missing:
        print(f"  absent: {missing}")
    return calls


def exact(p: Problem) -> str | None:
    """Why select differs from its reference on the very logits that score wrote, for some rows; None if it does not."""
    rows = min(CHECKED_ROWS, p.case.rows)
    logits = score_paged(
        p.q[:rows], p.weights[:rows], p.caches[0], p.table, p.request[:rows], p.lengths[:rows], max_length=p.max_length
    )
    # Coarse scores tie by the thousand.
    for scores in (logits, (logits * 4).round()):
        expected = select_reference(scores.cpu(), p.lengths[:rows].cpu(), K)
        if not torch.equal(select(scores.contiguous(), p.lengths[:rows], K).cpu(), expected):
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


def candidates(p: Problem, cuts: Sequence[str], peers: bool = False) -> Candidates:
    """Ours in these cuts, SGLang's, and with `peers` others' kernels, checked."""
    checked = Candidates()
    for name in cuts:
        shape, cut = CUTS[name]
        checked.add(
            name,
            lambda shape=shape, cut=cut: ours(p, shape, cut),  # type: ignore[misc]
            lambda call, name=name: wrong(p, call) or (exact(p) if name == "ours" else None),  # type: ignore[misc]
        )
    checked.add("sglang", lambda: sglang(p), lambda call: wrong(p, call))
    if peers:
        checked.add("DeepGEMM + flashinfer.top_k", lambda: flashinfer(p), lambda call: wrong(p, call))
    return checked


def measure() -> Iterator[dict[str, Any]]:
    """For `sgl-indexcache bench kernels`: ours as it is served, and SGLang's, in microseconds."""
    if not torch.cuda.is_available():
        print("indexers: nothing to measure without CUDA", file=sys.stderr)
        return
    for case in CASES:
        if case.shared and any(other.rows == case.rows and not other.shared for other in CASES):
            continue  # the table of choices knows no sharing: requests that share nothing speak for both
        p = Problem(case)
        checked = candidates(p, ["ours"])
        times = timed(checked.right, len(p.caches), REPEATS)
        yield {
            "phase": case.phase, "heads": case.heads, "rows": case.rows, "keys": case.keys,
            "us": {name: [1000 * ms for ms in samples] for name, samples in times.items()}, "wrong": checked.failed,
        }  # fmt: skip


def main() -> None:
    parser = run.command(__doc__, REPEATS)
    parser.add_argument("--only", choices=("prefill", "decode"), help="one phase")
    parser.add_argument("--parts", "--profile", action="store_true", help="time score and select alone too")
    parser.add_argument("--cuts", nargs="+", choices=CUTS, metavar="CUT", help="these cuts of ours; default all")
    parser.add_argument("--cases", nargs="+", type=int, metavar="N", help="these of the shapes, from 0; default all")
    options = parser.parse_args()

    def checked(p: Problem) -> Candidates:
        result = candidates(p, options.cuts or cuts_of(p.case), not options.cuts)
        if options.parts:
            result.parts = halves(p)
        return result

    cases = [CASES[nth] for nth in options.cases] if options.cases else CASES
    run.run("score_select", options, [case for case in cases if options.only in (None, case.phase)], checked)


if __name__ == "__main__":
    main()
