"""Two-level scoring against its definition, with the CPU's kernels and with CUDA's, for which references stand in."""

import itertools
from typing import Any

import pytest
import torch

from sgl_indexcache.indexer.cpu.two_level import CpuKernels
from sgl_indexcache.indexer.cuda.two_level import CudaKernels
from sgl_indexcache.indexer.forms import shift
from sgl_indexcache.indexer.guard import SAMPLES, Guard
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


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


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


@pytest.mark.parametrize("shortlist", [SHORT, Shortlist(0.6, window=2)], ids=["keys", "fraction"])
def test_equals_the_definition(device: str, shortlist: Shortlist) -> None:
    context = Context(device, shortlist)
    assert torch.equal(context.run([LENGTH]), context.defined(shortlist))
    work = context.two_level.work
    assert work.rows > 0
    assert work.rows + work.exact_rows == LENGTH
    assert work.keys_seen == LENGTH * (LENGTH + 1) // 2


def test_a_shortlist_of_everything_is_exact(device: str) -> None:
    context = Context(device, Shortlist(1.0))
    assert torch.equal(context.run([LENGTH]), context.exact(torch.arange(LENGTH)))
    work = context.two_level.work
    assert (work.exact_rows, work.rows, work.keys_scored) == (LENGTH, 0, work.keys_seen)


def test_lists_have_an_upper_bound(device: str) -> None:
    shortlist = Shortlist(1.0, max_pages=6)
    assert [shortlist.pages(complete, TOPK) for complete in (3, 6, 7, 1 << 20)] == [3, 6, 6, 6]
    assert not shortlist.lists_all(7, TOPK)
    context = Context(device, shortlist)
    assert torch.equal(context.run([LENGTH]), context.defined(shortlist))


@pytest.mark.parametrize("ends", [[256, 448, LENGTH], [500, 502, 530, LENGTH]], ids=["chunks", "ragged"])
def test_chunks_and_other_pages_change_nothing(device: str, ends: list[int]) -> None:
    context = Context(device)
    whole = context.run([LENGTH])
    # Pages are used again: what the first run left in them must not be seen.
    again = context.run(ends)
    # A group that is cut shares the list of its first row in either part.
    apart = torch.ones(LENGTH, dtype=torch.bool)
    for end in ends:
        if end % context.kernels.group:
            apart[end : end + context.kernels.group] = False
    assert torch.equal(again[apart], whole[apart])


def test_rows_that_are_cut_for_memory_select_the_same(device: str) -> None:
    whole = Context(device).run([LENGTH])
    context = Context(device)
    context.kernels.max_rows = 8
    context.two_level = TwoLevel(context.records, context.kernels, SHORT, NEVER, TOPK)
    assert torch.equal(context.run([LENGTH]), whole)


def test_decoded_rows_on_the_cpu_select_as_their_prefill_does() -> None:
    context = Context("cpu")
    whole = context.run([LENGTH])
    assert torch.equal(context.run([560, *range(561, LENGTH + 1)]), whole)


def test_summaries_of_pages_written_without_an_indexer_are_made_when_they_are_needed(device: str) -> None:
    context = Context(device)
    whole = context.run([LENGTH])
    table = context.place()
    context.write(table, 0, 8 * PAGE)
    context.records.take(torch.arange(8 * PAGE), slots_of(table, 0, 8 * PAGE))
    assert torch.equal(context.forward((table, 8 * PAGE, LENGTH)), whole[8 * PAGE :])


def test_a_warm_turn_reads_the_records_of_its_prefix(device: str) -> None:
    context = Context(device)
    one = context.place()
    whole = context.forward((one, 0, LENGTH))
    two = torch.cat((one[:8], context.place(avoid=one)[8:]))
    assert bool(context.records.has_summary[1, one[:8].long()].all())
    assert torch.equal(context.forward((two, 8 * PAGE, LENGTH)), whole[8 * PAGE :])


def test_several_requests_and_padding_in_a_forward(device: str) -> None:
    context = Context(device)
    whole = context.run([LENGTH])
    one = context.place()
    two = context.place(avoid=one)
    context.forward((one, 0, 7 * PAGE))
    both = context.forward((one, 7 * PAGE, LENGTH), (two, 0, 7 * PAGE + 5), padding=3)
    assert torch.equal(both, torch.cat((whole[7 * PAGE :], whole[: 7 * PAGE + 5], torch.full((3, TOPK), -1))))


def test_a_single_row_on_cuda_is_scored_exactly() -> None:
    context = Context("cuda")
    table = context.place()
    context.forward((table, 0, LENGTH - 1))
    other = context.place(avoid=table)
    context.forward((other, 0, LENGTH - 4))
    both = context.forward((table, LENGTH - 1, LENGTH), (other, LENGTH - 4, LENGTH))
    assert torch.equal(both[:1], context.exact(torch.tensor([LENGTH - 1])))


@pytest.mark.parametrize("form", ["slots", "offsets"])
def test_the_forms_that_attention_takes_on_cuda(form: str) -> None:
    context = Context("cuda")
    table = context.place()
    start = 7 * PAGE
    context.forward((table, 0, start))
    positions = context.defined()[start:]
    selection = context.forward((table, start, LENGTH), form=form)
    if form == "slots":
        expected = table[(positions // PAGE).long()] * PAGE + positions % PAGE
    else:
        expected = positions + torch.arange(LENGTH - start, dtype=torch.int32)[:, None] * 1000
    assert torch.equal(selection, expected)


def test_initial_and_local_positions_are_always_selected(device: str) -> None:
    context = Context(device, Shortlist(6 * PAGE))
    context.forced = (5, 7)
    selection = context.run([LENGTH])
    for t in range(7 * PAGE, LENGTH):
        assert {*range(5), *range(t - 6, t + 1)} <= set(selection[t].tolist())


def slots_of(table: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """KV slots int64 of positions start to end."""
    position = torch.arange(start, end)
    return table[position // PAGE].long() * PAGE + position % PAGE


def first_listed(shortlist: Shortlist = SHORT) -> int:
    return PAGE * next(page for page in itertools.count() if not shortlist.lists_all(page, TOPK))


def test_recall_is_that_of_the_sampled_rows(device: str) -> None:
    guard = Guard(0.0, 8)
    context = Context(device, guard=guard)
    selection = context.run([LENGTH])
    positions = torch.arange(first_listed(), LENGTH)
    samples = positions[guard.sampled(positions)]
    hits = sum(
        len(set(a) & set(b)) for a, b in zip(selection[samples].tolist(), context.exact(samples).tolist(), strict=True)
    )
    context.two_level.refresh()
    recall = context.two_level.work.layers[LAYER]
    assert (recall.rows, recall.expected, recall.held) == (len(samples), len(samples) * TOPK, hits)
    assert context.two_level.work.keys_sampled == int((samples + 1).sum())
    assert context.two_level.work.layers[2].rows == 0
    assert int(context.records.guard[1].sum(0)[1]) == hits


def test_the_work_is_counted_key_by_key(device: str) -> None:
    context = Context(device, Shortlist(6 * PAGE))
    context.run([LENGTH])
    work, positions = context.two_level.work, torch.arange(LENGTH)
    listed = positions >= first_listed(Shortlist(6 * PAGE))
    heads = positions[listed & (positions % context.kernels.group == 0)]
    assert (work.rows, work.exact_rows) == (int(listed.sum()), int((~listed).sum()))
    assert work.summaries_scored == int((heads // PAGE).sum())
    assert work.keys_scored == int(torch.where(listed, 6 * PAGE + positions % PAGE + 1, positions + 1).sum())


def test_below_the_floor_a_context_is_scored_exactly_and_goes_on_being_judged(device: str) -> None:
    guard = Guard(0.999, 4)
    context = Context(device, guard=guard)
    table, middle = context.place(), 8 * PAGE
    context.forward((table, 0, middle))
    selection = context.forward((table, middle, LENGTH))
    assert torch.equal(selection, context.exact(torch.arange(middle, LENGTH)))
    recall = context.two_level.work.layers[LAYER]
    assert (recall.fallbacks, context.two_level.work.layers[2].fallbacks) == (1, 0)
    context.two_level.refresh()
    positions = torch.arange(first_listed(), LENGTH)
    assert recall.rows == int(guard.sampled(positions).sum()) >= SAMPLES
    # Another context is not concerned, and a decoded row goes on as its context, without being counted again.
    context.forward((context.place(avoid=table), 0, middle))
    context.forward((table, LENGTH - 1, LENGTH))
    assert recall.fallbacks == 1


@pytest.mark.parametrize(
    ("pages", "trips"),
    [
        ([], False),
        ([(7, 0)], False),
        ([(4, 3), (4, 3)], True),
        ([(9, 0), (4, 4), (4, 4)], False),
        ([(9, 9), (4, 3), (4, 4)], True),
        ([(9, 9), (4, 3), (0, 0), (4, 4), (0, 0)], True),
    ],
    ids=["nothing", "too-few", "low", "came-back", "fell", "pages-without-samples"],
)
def test_a_context_is_judged_by_its_latest_samples(device: str, pages: list[tuple[int, int]], trips: bool) -> None:
    guard = torch.zeros(1, POOL, 2, dtype=torch.int32)
    table = torch.arange(POOL, dtype=torch.int32).flip(0)[None]
    guard[0, table[0, : len(pages)].long()] = torch.tensor(pages, dtype=torch.int32).view(-1, 2) * TOPK
    out = torch.full((1, 1), 7)
    line, complete = torch.tensor([0], dtype=torch.int32), torch.tensor([len(pages)], dtype=torch.int32)
    kernels_of(device).verdicts(guard, table, line, complete, SAMPLES * TOPK, 0.9, out=out)
    assert out.item() == trips


def test_known_selections_stay_and_leave_the_same_samples(device: str) -> None:
    context = Context(device, guard=Guard(0.0, 8))
    one = context.place()
    context.forward((one, 0, 7 * PAGE))
    context.forward((one, 7 * PAGE, LENGTH))
    shared = torch.cat((one[:7], context.place(avoid=one)[7:]))
    span = (shared, 7 * PAGE, LENGTH)
    context.write(*span)
    context.lay_out([span])
    inputs, rows = context.inputs([span]), context.two_level.work.rows
    out = torch.full((len(inputs.lengths), TOPK), 3, dtype=torch.int32)
    context.two_level.select(LAYER, inputs, Terms("positions", inputs.page_table), out, known={0})
    assert (out == 3).all()
    assert context.two_level.work.rows == rows
    records = context.records.guard[1]
    assert torch.equal(records[shared.long()], records[one.long()])
    assert records[one.long()].sum() > 0


def test_forgetting_makes_summaries_anew(device: str) -> None:
    context = Context(device)
    table = context.place()
    context.forward((table, 0, 8 * PAGE))
    assert int(context.records.has_summary.sum()) > 0
    context.two_level.forget()
    assert int(context.records.has_summary.sum()) == int(context.records.guard.sum()) == 0
    assert torch.equal(context.forward((table, 8 * PAGE, LENGTH)), context.defined()[8 * PAGE :])
    context.two_level.refresh()
    assert context.records.valid_pages == 0  # layer 2 never ran


def test_rows_whose_lists_save_too_little_are_scored_exactly(device: str) -> None:
    context = Context(device)
    start, end = 8 * PAGE, LENGTH
    saved = sum(position - SHORT.pages(position // PAGE, TOPK) * PAGE for position in range(start, end))
    for least, lists in ((saved + PAGE * (end - start), False), (saved - PAGE * (end - start), True)):
        context.two_level = TwoLevel(context.records, context.kernels, SHORT, NEVER, TOPK, least)
        table = context.place()
        context.forward((table, 0, start))
        context.lay_out([(table, start, end)])
        assert context.two_level.shortlists(LAYER) == lists
        if not lists:
            selection = context.forward((table, start, end))
            assert torch.equal(selection, context.exact(torch.arange(start, end)))
            work = context.two_level.work
            before = work.exact_rows, work.exact_keys
            context.two_level.count_exact()
            assert work.exact_rows - before[0] == end - start
            assert work.exact_keys - before[1] == sum(range(start + 1, end + 1))
