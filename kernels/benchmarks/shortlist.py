"""Time two-level scoring on CUDA beside exact scoring: summaries, lists of pages, selection among them.

    python -m sgl_indexcache.kernels.benchmarks.shortlist --out FILE

Rows of one prompt's end over random keys. On some rows the listed pages and the selection are checked against float64
before anything is timed. All take turns, in CUDA graphs; medians, lowest, highest. The JSON: see run.run;
`listed` are the keys of a shortlist.
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
    wrong,
)
from sgl_indexcache.kernels.benchmarks.run import Call, Candidates
from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES, unpack
from sgl_indexcache.kernels.score.cuda import DEFAULT
from sgl_indexcache.kernels.select.cuda import Cut, select
from sgl_indexcache.kernels.shortlist import GROUP
from sgl_indexcache.kernels.shortlist.cuda import list_pages, select_listed, summarise

CASES = (
    Case("prefill", 4096, 200_000, 32),
    Case("prefill", 4096, 128_000, 64),
    Case("prefill", 1024, 200_000, 32),
    Case("prefill", 1, 120_000, 32),
)
LISTED = (50_048, 24_960, 16_320, 8128)
"""Keys of a shortlist: a quarter and an eighth of 200,000, and eight and four times k with the row's own page."""
CUTS = {
    "": None,
    ", 4 warps": Cut(4, 128),
    ", 8 warps": Cut(8, 128),
    ", 16 warps": Cut(16),
    ", 16 warps, 64 registers": Cut(16, 64),
}
WIDTHS = (8192, 16_384)


class TwoLevel:
    """Both levels over the rows of a problem, with summaries that stand already."""

    def __init__(self, p: Problem, listed: int) -> None:
        self.p, self.n = p, listed // PAGE
        position = p.lengths - 1
        group = position // GROUP - position[0] // GROUP
        self.group = group.contiguous()
        self.heads = torch.cat((group.new_ones(1), group.diff())).nonzero()[:, 0]
        self.complete = (position // PAGE)[self.heads].contiguous()
        self.max_complete = int(position[-1]) // PAGE
        self.lengths = (self.n * PAGE + position % PAGE + 1).contiguous()
        pool = p.caches[0].shape[0]
        self.summaries = torch.zeros(pool, p.q.shape[2] + SCALE_BYTES, dtype=torch.uint8, device="cuda")
        self.has_summary = torch.zeros(pool, dtype=torch.uint8, device="cuda")
        self.lists = torch.empty(len(self.heads), self.n + 1, dtype=torch.int32, device="cuda")
        self.lists[:, self.n] = self.complete
        self.out = torch.empty(p.case.rows, K, dtype=torch.int32, device="cuda")
        self.packed = self.summarise(0)

    def summarise(self, layer: int) -> torch.Tensor:
        return summarise(self.p.caches[0], self.p.table[0], self.summaries, self.has_summary, self.max_complete)

    def list(self, layer: int) -> torch.Tensor:
        q = self.p.q.view(torch.uint8)[self.heads].view(self.p.q.dtype)
        list_pages(
            q, self.p.weights[self.heads], self.packed, self.complete, self.n, max_complete=self.max_complete, window=1,
            budget_bytes=BUDGET, out=self.lists[:, : self.n],
        )  # fmt: skip
        return self.lists

    def select(self, layer: int) -> torch.Tensor:
        pages = self.p.table[0].index_select(0, self.lists.view(-1)).view_as(self.lists)
        select_listed(
            self.p.q, self.p.weights, self.p.caches[0], pages, self.group, self.lengths, K, names=self.lists,
            budget_bytes=BUDGET, out=self.out,
        )  # fmt: skip
        return self.out

    def __call__(self, layer: int) -> torch.Tensor:
        self.packed = self.summarise(layer)
        self.list(layer)
        return self.select(layer)

    def wrong(self) -> str | None:
        """Why some rows' pages or selections are wrong; None if they are right."""
        chosen = self(0)
        means = unpack(self.packed, torch.arange(len(self.packed), device="cuda")).double()
        for row in range(min(CHECKED_ROWS, self.p.case.rows)):
            head, complete = int(self.heads[self.group[row]]), int(self.complete[self.group[row]])
            products = (self.p.q[head].double() @ means[:complete].T).clamp(min=0)
            scores = self.p.weights[head].double() @ products
            scores[0] = scores[complete - 1] = float("inf")
            bound = float(scores.topk(self.n).values[-1])
            slack = TOLERANCE * float(scores[1:-1].abs().max())
            left = torch.ones_like(scores, dtype=torch.bool)
            pages = self.lists[self.group[row]].long()
            left[pages[:-1]] = False
            if float(scores[~left].min()) < bound - slack or float(scores[left].max()) > bound + slack:
                return f"row {row}: other pages than float64's"
            keys = (pages[:, None] * PAGE + torch.arange(PAGE, device="cuda")).flatten()
            keys = keys[keys < int(self.p.lengths[row])]
            exact = self.p.logits(row, 0)
            bound = float(exact[keys].topk(K).values[-1])
            slack = TOLERANCE * float(exact.abs().max())
            taken = torch.zeros_like(exact, dtype=torch.bool)
            taken[chosen[row].long()] = True
            if int(taken.sum()) != K or int(taken[keys].sum()) != K:
                return f"row {row}: not {K} listed positions"
            if float(exact[taken].min()) < bound - slack or bool((~taken[keys] & (exact[keys] > bound + slack)).any()):
                return f"row {row}: another selection than float64's"
        return None


def selections(rows: int, width: int) -> dict[str, Call]:
    """Selection alone from rows of this width, in the cut that serves and others."""
    logits = torch.randn(rows, width, device="cuda")
    lengths = torch.full((rows,), width, dtype=torch.int32, device="cuda")
    out = torch.empty(rows, K, dtype=torch.int32, device="cuda")

    def call(cut: Cut | None) -> Call:
        return lambda layer: select(logits, lengths, K, out=out, cut=cut)

    return {f"selection among {width} keys{name}": call(cut) for name, cut in CUTS.items()}


def candidates(p: Problem) -> Candidates:
    """Exact scoring, both levels at several sizes of lists and each alone, and selection in several cuts."""
    checked = Candidates()
    checked.add("exact", lambda: ours(p, DEFAULT, None), lambda call: wrong(p, call))
    for listed in LISTED:
        two_level = TwoLevel(p, listed)
        name = f"two-level, {listed} listed"
        checked.add(name, lambda two_level=two_level: two_level, TwoLevel.wrong)  # type: ignore[misc, arg-type]
        if name in checked.right:
            checked.parts |= {
                f"lists of {listed}": two_level.list,
                f"selection among {listed} listed": two_level.select,
            }
    checked.parts["summaries that stand"] = two_level.summarise
    for width in WIDTHS:
        checked.parts |= selections(min(p.case.rows, 1024), width)
    return checked


if __name__ == "__main__":
    run.run("shortlist", run.command(__doc__, repeats=11).parse_args(), CASES, candidates)
