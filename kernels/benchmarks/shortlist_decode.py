"""Time two-level scoring of decode steps on CUDA beside exact scoring, ours and SGLang's.

    python -m sgl_indexcache.kernels.benchmarks.shortlist_decode --out FILE

Rows of requests that share nothing, over random keys, in CUDA graphs made for contexts of 131,072 keys. On some rows
the selection is checked against float64 before anything is timed; all take turns; medians, lowest, highest. No row is
a sample of the guard's, but "all sampled" scores every row exactly as well, which is what fallen contexts cost. The
JSON: see run.run.
"""

import torch

from sgl_indexcache.kernels.benchmarks import run
from sgl_indexcache.kernels.benchmarks.problem import (
    BUDGET,
    CHECKED_ROWS,
    TOLERANCE,
    Case,
    K,
    Problem,
    ours,
    sglang,
    wrong,
)
from sgl_indexcache.kernels.benchmarks.run import Candidates
from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES
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
        pool, dim = cache.shape[0], cache.shape[1] // PAGE - SCALE_BYTES

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device="cuda")

        return Records(
            zeros(pool, dim + SCALE_BYTES, dtype=torch.uint8), zeros(pool, dtype=torch.uint8),
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
            if len(set(picked.tolist())) != K or float(scores[picked // PAGE].min()) < bound - slack:
                return f"row {row}: not {K} positions of listed pages"
            exact = self.p.logits(row, 0)
            certain = (scores > bound + slack).repeat_interleave(PAGE)[: exact.numel()]
            taken = torch.zeros_like(certain)
            taken[picked] = True
            slack = TOLERANCE * float(exact.abs().max())
            if bool((certain & ~taken & (exact > exact[picked].min() + slack)).any()):
                return f"row {row}: better listed keys are left out"
        return None


def candidates(p: Problem) -> Candidates:
    """Exact scoring, ours and SGLang's, and decode steps with lists of several sizes."""
    checked = Candidates()
    checked.add("exact", lambda: ours(p, DEFAULT, None), lambda call: wrong(p, call))
    checked.add("sglang", lambda: sglang(p), lambda call: wrong(p, call))
    for listed in LISTED:
        name = f"two-level, {listed} listed"
        checked.add(name, lambda listed=listed: Lists(p, listed), Lists.wrong)  # type: ignore[misc, arg-type]
        if name in checked.right and listed == LISTED[0]:
            checked.right[f"{name}, all sampled"] = Lists(p, listed, ALWAYS)
    return checked


if __name__ == "__main__":
    run.run("shortlist_decode", run.command(__doc__, repeats=11).parse_args(), CASES, candidates)
