"""A scheduler's memory and a context in it, for tests of two-level scoring on either device."""

import itertools
from typing import Any

import torch

from sgl_indexcache.indexer.cpu.two_level import CpuKernels
from sgl_indexcache.indexer.cuda.two_level import CudaKernels
from sgl_indexcache.indexer.forms import shift
from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.kernels import TwoLevelKernels
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE, pack
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.score_select.reference import score_select
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.kernels.shortlist import pack_summary, reference, unpack_summary
from sgl_indexcache.selection import Inputs, Queries, TensorQueries, Terms
from sgl_indexcache.store.page_records import PageRecords

HEADS, DIM, TOPK, LENGTH, LAYER = 4, 32, 48, 9 * PAGE + 11, 5
POOL = 40
SHORT = Shortlist(5 * PAGE)
NEVER = Guard(0.0, 1 << 30)


class ReferenceKernels(CudaKernels):
    """CUDA's, on a CPU: tests/kernels and tests/gpu show that the kernels do what the references do."""

    summarise = staticmethod(reference.summarise)
    judge = staticmethod(reference.judge)
    verdicts = staticmethod(reference.verdicts)

    def list_pages(self, *arguments: Any, **options: Any) -> None:
        reference.list_pages(*arguments, budget_bytes=self.budget_bytes, **options)

    def select_listed(self, *arguments: Any, **options: Any) -> None:
        reference.select_listed(*arguments, budget_bytes=self.budget_bytes, **options)

    def select(self, inputs: Inputs, terms: Terms, out: torch.Tensor, *, rows: slice, max_length: int) -> None:
        queries, gates = inputs.queries(rows)
        assert int(inputs.lengths[rows].max()) <= max_length
        names = inputs.page_table if terms.form == "slots" else None
        out[rows] = score_select(
            queries, gates, inputs.index_k, inputs.page_table, inputs.request[rows], inputs.lengths[rows], out.shape[1],
            max_length=max_length, initial=inputs.initial, local=inputs.local, names=names,
        )  # fmt: skip
        if terms.form == "offsets":
            assert terms.offsets is not None
            shift(out[rows], terms.offsets[rows])


def kernels_of(device: str) -> TwoLevelKernels:
    return CpuKernels(1 << 20) if device == "cpu" else ReferenceKernels(1 << 20)


class Context:
    """A request's queries and keys, and a scheduler's memory.

    Numbers are small integers: scores are exact, so that no product's shape can change one by rounding.
    """

    def __init__(self, device: str, shortlist: Shortlist = SHORT, guard: Guard = NEVER, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)

        def make(*shape: int) -> torch.Tensor:
            return torch.randint(-3, 4, shape, generator=self.random).float()

        self.q, self.gates, self.k = make(LENGTH, HEADS, DIM), make(LENGTH, HEADS), make(LENGTH, DIM)
        self.packed = device == "cuda"
        if self.packed:
            self.index_k = pack(torch.zeros(POOL, PAGE, DIM).to(torch.float8_e4m3fn), torch.ones(POOL, PAGE))
        else:
            self.index_k = torch.full((POOL * PAGE, DIM), float("nan"))
        self.kernels = kernels_of(device)
        self.records = PageRecords([2, LAYER], POOL, DIM, "cpu")
        self.two_level = TwoLevel(self.records, self.kernels, shortlist, guard, TOPK)
        self.forced = (0, 0)

    def place(self, avoid: torch.Tensor | None = None) -> torch.Tensor:
        """Pages for a request, anywhere but in page 0, which is SGLang's padding, and those of another table."""
        ids = torch.randperm(POOL - 1, generator=self.random) + 1
        if avoid is not None:
            ids = ids[~torch.isin(ids, avoid)]
        return ids[: -(-LENGTH // PAGE)].int()

    def write(self, table: torch.Tensor, start: int, end: int) -> None:
        if not self.packed:
            self.index_k[slots_of(table, start, end)] = self.k[start:end]
            return
        for position in range(start, end):
            page, slot = int(table[position // PAGE]), position % PAGE
            key = self.k[position].to(torch.float8_e4m3fn).view(torch.uint8)
            self.index_k[page, slot * DIM : (slot + 1) * DIM] = key

    def lay_out(self, spans: list[tuple[torch.Tensor, int, int]]) -> None:
        """What the backend does before a forward of requests (page table, first position, end)."""
        position = torch.cat([torch.arange(start, end) for _, start, end in spans])
        self.two_level.clear()
        self.records.take(position, torch.cat([slots_of(*span) for span in spans]))
        tables = torch.stack([table for table, _, _ in spans])
        self.two_level.begin([e for _, _, e in spans], [e - s for _, s, e in spans], tables, is_request=True)

    def inputs(self, spans: list[tuple[torch.Tensor, int, int]]) -> Inputs:
        rows = torch.cat([torch.arange(start, end) for _, start, end in spans])
        request = torch.cat([torch.full((e - s,), nth) for nth, (_, s, e) in enumerate(spans)])
        tables = torch.stack([table for table, _, _ in spans])
        q, gates = self.q[rows], self.gates[rows]
        packed = TensorQueries(q.to(torch.float8_e4m3fn), gates)
        queries: Queries = packed if self.packed else lambda part: (q[part], gates[part])
        return Inputs(queries, self.index_k, tables, request.int(), (rows + 1).int(), *self.forced)

    def forward(self, *spans: tuple[torch.Tensor, int, int], form: Any = "positions", padding: int = 0) -> torch.Tensor:
        for span in spans:
            self.write(*span)
        self.lay_out(list(spans))
        inputs = self.inputs(list(spans))
        rows = len(inputs.lengths)
        out = torch.full((rows + padding, TOPK), -7, dtype=torch.int32)
        offsets = torch.arange(rows, dtype=torch.int32) * 1000 if form == "offsets" else None
        self.two_level.select(LAYER, inputs, Terms(form, inputs.page_table, offsets), out)
        return out

    def run(self, ends: list[int]) -> torch.Tensor:
        table = self.place()
        return torch.cat([self.forward((table, *part)) for part in itertools.pairwise([0, *ends])])

    def exact(self, rows: torch.Tensor) -> torch.Tensor:
        """Exact selections of the rows at these positions."""
        scores = score(self.q[rows.long()], self.k, self.gates[rows.long()])
        return select(scores, rows + 1, TOPK)

    def defined(self, shortlist: Shortlist = SHORT) -> torch.Tensor:
        """Row by row: the pages that its group's first row lists, then the best of their keys."""
        means = self.k[: LENGTH // PAGE * PAGE].view(-1, PAGE, DIM).mean(1)
        means = unpack_summary(pack_summary(means))
        out = self.exact(torch.arange(LENGTH))
        for row in range(LENGTH):
            head = row // self.kernels.group * self.kernels.group
            complete = head // PAGE
            if shortlist.lists_all(complete, TOPK):
                continue
            ranked = score(self.q[head, None], means[:complete], self.gates[head, None])[0]
            ranked[[0, *range(complete - shortlist.window, complete)]] = float("inf")
            n = shortlist.pages(complete, TOPK)
            listed = select(ranked[None], torch.tensor([complete]), n)[0].long()
            scores = score(self.q[row, None], self.k[: row + 1], self.gates[row, None])[0]
            outside = ~torch.isin(torch.arange(row + 1) // PAGE, torch.cat((listed, torch.tensor([row // PAGE]))))
            out[row] = select(scores.masked_fill(outside, -1e30)[None], torch.tensor([row + 1]), TOPK)[0]
        return out


def slots_of(table: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """KV slots int64 of positions start to end."""
    position = torch.arange(start, end)
    return table[position // PAGE].long() * PAGE + position % PAGE


def first_listed(shortlist: Shortlist = SHORT) -> int:
    return PAGE * next(page for page in itertools.count() if not shortlist.lists_all(page, TOPK))
