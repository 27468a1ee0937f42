"""Time two-level scoring on CUDA beside exact scoring: page summaries, choice of pages, listed keys, selection.

    python kernels/benchmarks/shortlist.py --out shortlist.json

Rows of one prompt's end over random keys, a shortlist for every row. On some rows the listed pages and the selection
are checked against float64 before anything is timed. All take turns, in CUDA graphs; medians, lowest, highest. The JSON
is a list of {rows, keys, heads, device, name, ms, low, high}; the parts are of one slice of rows.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from indexer import BUDGET, CHECKED_ROWS, TOLERANCE, Case, K, Problem, ours, timed

from sgl_indexcache.kernels.score.api import DEFAULT
from sgl_indexcache.kernels.score_select.reference import unpack
from sgl_indexcache.kernels.select.api import WARPS, select
from sgl_indexcache.kernels.shortlist import PAGE, pack_summary, to_positions
from sgl_indexcache.kernels.shortlist.api import listed_scores, page_scores

CASES = (Case("prefill", 4096, 200_000, 32), Case("prefill", 4096, 128_000, 64), Case("prefill", 1024, 200_000, 32))
SHARES = (0.25, 0.125)


class TwoLevel:
    """The four steps over rows of a problem, on buffers of one slice."""

    def __init__(self, p: Problem, share: float) -> None:
        self.p, self.share = p, share
        position = p.lengths - 1
        self.complete = position // PAGE
        self.pages = int(int(self.complete.min()) * share)
        width = (self.pages + 1) * PAGE
        self.step = min(p.case.rows, max(1, BUDGET // (4 * width)))
        keys = unpack(p.caches[0], p.table[0]).float()
        means = pack_summary(keys.view(-1, PAGE, keys.shape[-1]).mean(1))
        self.summaries = torch.empty(p.caches[0].shape[0], means.shape[1], dtype=torch.uint8, device="cuda")
        self.summaries[p.table[0].long()] = means
        self.of_pages = torch.empty(self.step, p.table.shape[1], device="cuda")
        self.of_keys = torch.empty(self.step, width, device="cuda")
        self.listed = torch.empty(self.step, self.pages + 1, dtype=torch.int32, device="cuda")
        self.picks = torch.empty(self.step, K, dtype=torch.int32, device="cuda")
        self.lengths = self.pages * PAGE + position % PAGE + 1
        self.out = torch.empty(p.case.rows, K, dtype=torch.int32, device="cuda")

    def score_pages(self, part: slice) -> torch.Tensor:
        p, here = self.p, part.stop - part.start
        return page_scores(
            p.q[part], p.weights[part], self.summaries, p.table, p.request[part], self.complete[part],
            out=self.of_pages[:here],
        )  # fmt: skip

    def choose(self, part: slice) -> torch.Tensor:
        """The first page and the last complete one are always listed, and the row's own is the last of the list."""
        here = part.stop - part.start
        scores, complete = self.of_pages[:here], self.complete[part]
        scores[:, 0] = float("inf")
        scores.scatter_(1, complete.long().unsqueeze(1) - 1, float("inf"))
        listed = self.listed[:here]
        select(scores, complete, self.pages, out=listed[:, : self.pages])
        listed[:, self.pages] = complete
        return listed

    def score_keys(self, part: slice) -> torch.Tensor:
        p, here = self.p, part.stop - part.start
        return listed_scores(
            p.q[part], p.weights[part], p.caches[0], p.table, p.request[part], self.listed[:here], p.lengths[part],
            out=self.of_keys[:here],
        )  # fmt: skip

    def pick(self, part: slice) -> None:
        here = part.stop - part.start
        picks = select(self.of_keys[:here], self.lengths[part], K, out=self.picks[:here])
        self.out[part] = to_positions(picks, self.listed[:here])

    def __call__(self, layer: int) -> torch.Tensor:
        for first in range(0, self.p.case.rows, self.step):
            part = slice(first, min(self.p.case.rows, first + self.step))
            for do in (self.score_pages, self.choose, self.score_keys, self.pick):
                do(part)
        return self.out

    def parts(self) -> dict[str, Callable[[int], Any]]:
        """Each step over the first slice."""
        part = slice(0, self.step)
        label = f"of {self.step} rows, {self.share}"
        return {
            f"page scores {label}": lambda layer: self.score_pages(part),
            f"choice of pages {label}": lambda layer: self.choose(part),
            f"listed scores {label}": lambda layer: self.score_keys(part),
            f"selection {label}": lambda layer: self.pick(part),
        }

    def wrong(self) -> str | None:
        """Why the first rows' pages or selections are wrong; None if they are right."""
        rows = min(CHECKED_ROWS, self.step)
        part = slice(0, rows)
        self.score_pages(part)
        listed = self.choose(part).clone()
        self.score_keys(part)
        self.pick(part)
        means = unpack_pages(self.summaries, self.p.table[0])
        for row in range(rows):
            complete, length = int(self.complete[row]), int(self.p.lengths[row])
            products = (self.p.q[row].double() @ means[:complete].T).clamp(min=0)
            scores = self.p.weights[row].double() @ products
            scores[0] = scores[complete - 1] = float("inf")
            bound = float(scores.topk(self.pages).values[-1])
            slack = TOLERANCE * float(scores[1:-1].abs().max())
            left = torch.ones_like(scores, dtype=torch.bool)
            left[listed[row, :-1].long()] = False
            if float(scores[~left].min()) < bound - slack or float(scores[left].max()) > bound + slack:
                return f"row {row}: other pages than float64's"
            keys = (listed[row].long()[:, None] * PAGE + torch.arange(PAGE, device="cuda")).flatten()
            keys = keys[keys < length]
            exact = self.p.logits(row, 0)
            bound = float(exact[keys].topk(K).values[-1])
            slack = TOLERANCE * float(exact.abs().max())
            taken = torch.zeros_like(exact, dtype=torch.bool)
            taken[self.out[row].long()] = True
            if int(taken.sum()) != K or int(taken[keys].sum()) != K:
                return f"row {row}: not {K} listed positions"
            if float(exact[taken].min()) < bound - slack or bool((~taken[keys] & (exact[keys] > bound + slack)).any()):
                return f"row {row}: another selection than float64's"
        return None


def unpack_pages(summaries: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Mean keys float64 [P, D] of a request's pages."""
    packed = summaries[table.long()].contiguous()
    keys = packed[:, :-4].contiguous().view(torch.float8_e4m3fn).double()
    return keys * packed[:, -4:].contiguous().view(torch.float32).double()


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
        calls: dict[str, Callable[[int], Any]] = {"exact": ours(p, DEFAULT, WARPS)}
        print(f"{case.rows} x {case.keys} x {case.heads} heads", flush=True)
        for share in SHARES:
            two_level = TwoLevel(p, share)
            if reason := two_level.wrong():
                print(f"  two-level, {share}: incorrect: {reason}")
                failed = True
                continue
            calls |= {f"two-level, {share}": two_level, **two_level.parts()}
        for name, taken in timed(p, calls, options.repeats).items():
            ms = statistics.median(taken)
            shape = {"rows": case.rows, "keys": case.keys, "heads": case.heads, "device": torch.cuda.get_device_name()}
            results.append({**shape, "name": name, "ms": ms, "low": min(taken), "high": max(taken)})
            print(f"  {name:44} {ms:8.4f} ms  ({min(taken):.4f} to {max(taken):.4f})")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
