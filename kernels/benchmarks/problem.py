"""What the indexer's benchmarks share: problems of random data on CUDA, ours and others' kernels, and the check.

A selection is checked on some rows against float64. Decode goes over the caches of several layers, so that nothing is
found in L2 that would not be there while serving.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES, pack, unpack
from sgl_indexcache.kernels.score.cuda import Shape
from sgl_indexcache.kernels.score_select.cuda import score_select
from sgl_indexcache.kernels.select.cuda import Cut

DIM, K = 128, 2048
"""Width of an index key, and keys of a selection: DeepSeek-V3.2's and GLM-5's."""
BUDGET = 256 << 20
"""Bytes of logits that are alive; the settings' default."""
CHECKED_ROWS = 4
TOLERANCE = 1e-3
"""Of scores, relative to the largest: the tensor cores accumulate fp8 products with fewer bits than float32."""
GRAPH_LENGTH = 131072
"""What a captured decode graph must expect, in keys."""


@dataclass(frozen=True, slots=True)
class Case:
    """One shape; `shared` requests read the same pages but for their last."""

    phase: str
    rows: int
    keys: int
    heads: int
    shared: bool = False


Call = Callable[[int], torch.Tensor]
"""Runs one layer by its number and returns the selection [T, k], in any order within a row."""


class Problem:
    """Random queries and gates, and the page-packed caches of some layers with their pages in shuffled order."""

    def __init__(self, case: Case) -> None:
        make = torch.Generator(device="cuda").manual_seed(case.rows + case.keys)
        self.case = case
        self.decode = case.phase == "decode"
        self.q = torch.randn(case.rows, case.heads, DIM, generator=make, device="cuda").to(torch.float8_e4m3fn)
        self.weights = torch.rand(case.rows, case.heads, generator=make, device="cuda") / case.heads
        requests = case.rows if self.decode else 1
        of_each = -(-case.keys // PAGE)
        width = max(of_each, GRAPH_LENGTH // PAGE) if self.decode else of_each
        pages = (of_each + requests if case.shared else of_each * requests) + 1
        order = torch.randperm(pages, generator=make, device="cuda").to(torch.int32)
        self.table = torch.zeros(requests, width, dtype=torch.int32, device="cuda")
        for nth in range(requests):
            first = 0 if case.shared else nth * of_each
            self.table[nth, :of_each] = order[first : first + of_each]
            if case.shared:
                self.table[nth, of_each - 1] = order[of_each + nth]
        layers = (8 if case.shared or requests == 1 else 2) if self.decode else 1
        self.caches = [self._cache(pages, make) for _ in range(layers)]
        every = torch.arange(case.rows, dtype=torch.int32, device="cuda")
        self.request = every if self.decode else torch.zeros_like(every)
        self.lengths = torch.full_like(every, case.keys) if self.decode else case.keys - case.rows + 1 + every
        self.max_length = width * PAGE if self.decode else case.keys

    @staticmethod
    def _cache(pages: int, make: torch.Generator) -> torch.Tensor:
        keys = torch.randn(pages, PAGE, DIM, generator=make, device="cuda").to(torch.float8_e4m3fn)
        return pack(keys, torch.rand(pages, PAGE, generator=make, device="cuda") + 0.5)

    def logits(self, row: int, layer: int) -> torch.Tensor:
        """Scores float64 [lengths[row]] of a row."""
        length = int(self.lengths[row])
        keys = unpack(self.caches[layer], self.table[int(self.request[row]), : -(-length // PAGE)])[:length]
        products = (self.q[row].double() @ keys.T).clamp(min=0)
        return self.weights[row].double() @ products


def ours(p: Problem, shape: Shape, cut: Cut | None) -> Call:
    out = torch.empty(p.case.rows, K, dtype=torch.int32, device="cuda")
    return lambda layer: score_select(
        p.q, p.weights, p.caches[layer], p.table, p.request, p.lengths, K,
        max_length=p.max_length, budget_bytes=BUDGET, out=out, shape=shape, cut=cut,
    )  # fmt: skip


def deep_gemm_logits(p: Problem) -> Call:
    import deep_gemm

    if p.decode:
        context = p.lengths.unsqueeze(1)
        schedule = deep_gemm.get_paged_mqa_logits_metadata(context, PAGE, deep_gemm.get_num_sms())
        query = p.q.unsqueeze(1)
        return lambda layer: deep_gemm.fp8_paged_mqa_logits(
            query, p.caches[layer].view(-1, PAGE, 1, DIM + SCALE_BYTES), p.weights, context, p.table, schedule,
            p.max_length, clean_logits=False,
        )  # fmt: skip
    packed = p.caches[0][p.table[0].long()]
    keys = packed[:, : PAGE * DIM].contiguous().view(torch.float8_e4m3fn).view(-1, DIM)[: p.case.keys]
    scales = packed[:, PAGE * DIM :].contiguous().view(torch.float32).view(-1)[: p.case.keys]
    start = torch.zeros_like(p.lengths)
    return lambda layer: deep_gemm.fp8_mqa_logits(p.q, (keys, scales), p.weights, start, p.lengths, clean_logits=False)


def sglang(p: Problem) -> Call:
    """What SGLang runs (layers/attention/dsa/dsa_topk_backend.py:78): another top-k in decode than in prefill."""
    logits = deep_gemm_logits(p)
    if not p.decode:
        from sgl_kernel import fast_topk_v2

        return lambda layer: fast_topk_v2(logits(layer), p.lengths, K)
    from sglang.kernels.ops.attention.dsv4.topk import plan_topk_v2, topk_transform_512_v2

    plan = plan_topk_v2(p.lengths)  # once a forward
    positions = torch.arange(p.table.shape[1], dtype=torch.int32, device="cuda").expand_as(p.table).contiguous()
    out = torch.empty(p.case.rows, K, dtype=torch.int32, device="cuda")

    def call(layer: int) -> torch.Tensor:
        topk_transform_512_v2(logits(layer), p.lengths, positions, out, PAGE, plan)
        return out

    return call


def flashinfer(p: Problem) -> Call:
    import flashinfer

    logits = deep_gemm_logits(p)

    def call(layer: int) -> torch.Tensor:
        scores = logits(layer)
        # It knows no lengths; what lies past them is made invalid first, and timed.
        columns = torch.arange(scores.shape[1], device="cuda")
        scores.masked_fill_(columns >= p.lengths.unsqueeze(1), float("-inf"))
        positions: torch.Tensor = flashinfer.top_k(scores, K)[1]
        return positions

    return call


def wrong(p: Problem, call: Call) -> str | None:
    """Why a variant's selection is wrong, on some rows of its last layer; None if it is right."""
    layer = len(p.caches) - 1
    selection = call(layer)
    again = call(layer).clone() if p.case.rows <= 1024 else None
    step = max(1, (p.case.rows - 1) // max(1, CHECKED_ROWS - 1))
    for row in sorted({*range(0, p.case.rows, step), p.case.rows - 1}):
        scores = p.logits(row, layer)
        chosen = selection[row].long()
        if len(set(chosen.tolist())) != K or int(chosen.min()) < 0 or int(chosen.max()) >= scores.numel():
            return f"row {row}: not {K} positions within its length"
        slack = TOLERANCE * float(scores.abs().max())
        bound = float(scores.topk(K).values[-1])
        taken = torch.zeros_like(scores, dtype=torch.bool)
        taken[chosen] = True
        if bool((scores[chosen] < bound - slack).any()) or bool((~taken & (scores > bound + slack)).any()):
            return f"row {row}: another selection than float64's"
    if again is not None and not torch.equal(again.sort(1).values, selection.sort(1).values):
        return "another selection the second time"
    return None
