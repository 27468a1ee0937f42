"""Time two-level scoring of decode steps on CUDA beside exact scoring, ours and SGLang's.

    python -m sgl_indexcache.kernels.benchmarks.decode_lists --out decode_lists.json

Rows of requests that share nothing, over random keys, in CUDA graphs made for contexts of 131,072 keys. On some rows
the selection is checked against float64 before anything is timed; all take turns; medians, lowest, highest. No row is
a sample of the guard's, but "all sampled" scores every row exactly as well, which is what fallen contexts cost. The
JSON is a list of {rows, keys, heads, device, name, ms, low, high}.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.kernels.benchmarks.problem import (
    BUDGET,
    CHECKED_ROWS,
    TOLERANCE,
    Case,
    K,
    Problem,
    finish,
    ours,
    sglang,
    timed_in_turns,
)
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cuda import DEFAULT
from sgl_indexcache.kernels.shortlist import Judgement, Records, unpack_summary
from sgl_indexcache.kernels.shortlist.cuda_decode import select_decoded

CASES = tuple(Case("decode", rows, keys, 32) for keys in (32_000, 120_000) for rows in (1, 8, 16, 32, 64))
LISTED = (8128, 16_320)
NEVER, ALWAYS = Judgement(1 << 30, 1 << 30, 0.0), Judgement(1, 1 << 30, 0.0)


class Lists:
    """Decode steps with lists, over summaries that stand already."""

    def __init__(self, p: Problem, listed: int, judgement: Judgement = NEVER) -> None:
        self.p, self.n, self.judgement = p, listed // PAGE, judgement
        self.out = torch.empty(p.case.rows, K, dtype=torch.int32, device="cuda")
        self.records = [self._records(cache) for cache in p.caches]

    @staticmethod
    def _records(cache: torch.Tensor) -> Records:
        pool, dim = cache.shape[0], cache.shape[1] // PAGE - 4

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device="cuda")

        return Records(
            zeros(pool, dim + 4, dtype=torch.uint8), zeros(pool, dtype=torch.uint8),
            zeros(pool, 2, dtype=torch.int32), zeros(4, dtype=torch.int64),
        )  # fmt: skip

    def __call__(self, layer: int) -> torch.Tensor:
        p = self.p
        select_decoded(
            p.q, p.weights, p.caches[layer], p.table, p.lengths, self.records[layer], self.n, K, self.judgement,
            window=1, slots=False, budget_bytes=BUDGET, out=self.out,
        )  # fmt: skip
        return self.out

    def wrong(self) -> str | None:
        """Why some rows' selections are wrong; None if they are right. Pages at the bound may be listed or not."""
        chosen = self(0)
        for row in range(min(CHECKED_ROWS, self.p.case.rows)):
            complete = (int(self.p.lengths[row]) - 1) // PAGE
            means = unpack_summary(self.records[0].summaries[self.p.table[row, :complete].long()]).double()
            scores = self.p.weights[row].double() @ (self.p.q[row].double() @ means.T).clamp(min=0)
            slack = TOLERANCE * float(scores.abs().max())
            scores[0] = scores[-1] = float("inf")
            bound = float(scores.topk(self.n).values[-1])
            own = scores.new_tensor([float("inf")])
            scores = torch.cat((scores, own))
            picked = chosen[row].long()
            if picked.unique().numel() != K or float(scores[picked // PAGE].min()) < bound - slack:
                return f"row {row}: not {K} positions of listed pages"
            exact = self.p.logits(row, 0)
            certain = (scores > bound + slack).repeat_interleave(PAGE)[: exact.numel()]
            taken = torch.zeros_like(certain)
            taken[picked] = True
            slack = TOLERANCE * float(exact.abs().max())
            if bool((certain & ~taken & (exact > exact[picked].min() + slack)).any()):
                return f"row {row}: better listed keys are left out"
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("the indexer kernels run on CUDA; there is none here")
    results: list[dict[str, Any]] = []
    failed = False
    for case in CASES:
        p = Problem(case)
        calls: dict[str, Callable[[int], Any]] = {"exact": ours(p, DEFAULT, None)}
        print(f"{case.rows} x {case.keys} x {case.heads} heads", flush=True)
        try:
            calls["sglang"] = sglang(p)
        except ImportError as missing:
            print(f"  sglang absent: {missing}")
        for listed in LISTED:
            lists = Lists(p, listed)
            if reason := lists.wrong():
                print(f"  {listed} listed: incorrect: {reason}")
                failed = True
                continue
            calls[f"two-level, {listed} listed"] = lists
            if listed == LISTED[0]:
                calls[f"two-level, {listed} listed, all sampled"] = Lists(p, listed, ALWAYS)
        results += timed_in_turns(p, calls, options.repeats)
        del p, calls
        torch.cuda.empty_cache()
    finish(results, options.out, failed)


if __name__ == "__main__":
    main()
