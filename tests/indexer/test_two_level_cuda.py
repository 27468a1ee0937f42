"""Two-level scoring of CUDA prefills against its definition, with the references in place of the kernels."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgl_indexcache.indexer import samples, two_level_cuda
from sgl_indexcache.indexer.inputs import Inputs
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import SAMPLES, Guard
from sgl_indexcache.indexer.two_level_cuda import TwoLevelCuda
from sgl_indexcache.kernels.layout import PAGE, pack
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.score_select import cuda as score_select_cuda
from sgl_indexcache.kernels.score_select import reference as score_select_reference
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.kernels.shortlist import GROUP, reference
from sgl_indexcache.store.device_pages import DevicePages

HEADS, DIM, TOPK, LENGTH, LAYER = 4, 32, 48, 9 * PAGE + 11, 5
POOL = 40
SHORT = Shortlist(5 * PAGE)
NEVER = Guard(0.0, 1 << 30)
INDEXER = SimpleNamespace(num_init_tokens=0, num_local_tokens=0)


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/kernels and tests/gpu show that the kernels do what these do."""

    def score_select(*arguments: Any, out: torch.Tensor, max_length: int, **options: Any) -> None:
        assert int(arguments[5].max()) <= max_length
        known = {name: options[name] for name in ("initial", "local", "names") if name in options}
        out.copy_(score_select_reference.score_select(*arguments, max_length=max_length, **known))

    monkeypatch.setattr(score_select_cuda, "score_select", score_select)
    for name in ("summarise", "list_pages", "select_listed", "verdicts"):
        monkeypatch.setattr(two_level_cuda, name, getattr(reference, name))
    monkeypatch.setattr(samples, "judge", reference.judge)


class Context:
    """A request's queries and keys, and a scheduler's memory."""

    def __init__(self, shortlist: Shortlist = SHORT, guard: Guard = NEVER, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)

        def make(*shape: int) -> torch.Tensor:
            # Small integers: scores are exact, so that no product's shape can change one by rounding.
            return torch.randint(-3, 4, shape, generator=self.random).float()

        self.q, self.gates, self.k = make(LENGTH, HEADS, DIM), make(LENGTH, HEADS), make(LENGTH, DIM)
        self.index_k = pack(torch.zeros(POOL, PAGE, DIM).to(torch.float8_e4m3fn), torch.ones(POOL, PAGE))
        self.two_level = TwoLevelCuda(DevicePages([2, LAYER], POOL, DIM, "cpu"), shortlist, guard, TOPK, 1 << 20)

    def place(self, avoid: torch.Tensor | None = None) -> torch.Tensor:
        """Pages for a request, anywhere but in page 0, which is SGLang's padding, and those of another table."""
        ids = torch.randperm(POOL - 1, generator=self.random) + 1
        if avoid is not None:
            ids = ids[~torch.isin(ids, avoid)]
        return ids[: -(-LENGTH // PAGE)].int()

    def write(self, table: torch.Tensor, start: int, end: int) -> None:
        for position in range(start, end):
            page, slot = int(table[position // PAGE]), position % PAGE
            key = self.k[position].to(torch.float8_e4m3fn).view(torch.uint8)
            self.index_k[page, slot * DIM : (slot + 1) * DIM] = key

    def lay_out(self, spans: list[tuple[torch.Tensor, int, int]]) -> None:
        """What the backend does before a forward of requests (page table, first position, end)."""
        position = torch.cat([torch.arange(start, end) for _, start, end in spans])
        slots = torch.cat(
            [t[torch.arange(a, b) // PAGE].long() * PAGE + torch.arange(a, b) % PAGE for t, a, b in spans]
        )
        self.two_level.clear()
        self.two_level.pages.take(position, slots)
        tables = torch.stack([table for table, _, _ in spans])
        self.two_level.begin([e for _, _, e in spans], [e - s for _, s, e in spans], tables, asked=True)

    def inputs(self, spans: list[tuple[torch.Tensor, int, int]]) -> Inputs:
        rows = torch.cat([torch.arange(start, end) for _, start, end in spans])
        request = torch.cat([torch.full((e - s,), nth) for nth, (_, s, e) in enumerate(spans)])
        tables = torch.stack([table for table, _, _ in spans])
        fp8 = self.q[rows].to(torch.float8_e4m3fn)
        return Inputs(INDEXER, fp8, self.gates[rows], self.index_k, tables, request.int(), (rows + 1).int())

    def forward(self, *spans: tuple[torch.Tensor, int, int], form: Any = "positions", padding: int = 0) -> torch.Tensor:
        for table, start, end in spans:
            self.write(table, start, end)
        self.lay_out(list(spans))
        given = self.inputs(list(spans))
        rows = len(given.lengths)
        out = torch.full((rows + padding, TOPK), -7, dtype=torch.int32)
        offsets = torch.arange(rows, dtype=torch.int32) * 1000 if form == "offsets" else None
        if self.two_level.shortlists(LAYER):
            self.two_level.select(LAYER, given, form=form, offsets=offsets, out=out)
        else:
            self.two_level.watch(LAYER, given)
            out[:rows] = self.exact(rows=given.lengths - 1)
        return out

    def run(self, ends: list[int]) -> torch.Tensor:
        table = self.place()
        return torch.cat([self.forward((table, *part)) for part in itertools.pairwise([0, *ends])])

    def exact(self, rows: torch.Tensor) -> torch.Tensor:
        """Exact selections of the rows at these positions."""
        scores = score(self.q[rows.long()], self.k, self.gates[rows.long()])
        return select(scores, rows + 1, TOPK)

    def defined(self, shortlist: Shortlist = SHORT) -> torch.Tensor:
        """Group by group, by the reference."""
        pages = -(-LENGTH // PAGE)
        keys = torch.nn.functional.pad(self.k, (0, 0, 0, -LENGTH % PAGE)).view(pages, PAGE, DIM)
        summaries, none = torch.zeros(pages, DIM + 4, dtype=torch.uint8), torch.zeros(pages, dtype=torch.uint8)
        packed = reference.summarise(keys, torch.arange(pages), summaries, none, pages)
        out = self.exact(torch.arange(LENGTH))
        for first in range(0, LENGTH, GROUP):
            complete = torch.tensor([first // PAGE])
            if shortlist.lists_all(first // PAGE, TOPK):
                continue
            n, head = shortlist.pages(first // PAGE, TOPK), slice(first, first + 1)
            listed = complete.int().expand(1, n + 1).clone()
            reference.list_pages(
                self.q[head], self.gates[head], packed, complete, n, max_complete=pages, window=shortlist.window,
                budget_bytes=0, out=listed[:, :n],
            )  # fmt: skip
            rows = slice(first, min(LENGTH, first + GROUP))
            lengths = n * PAGE + torch.arange(rows.start, rows.stop) % PAGE + 1
            reference.select_listed(
                self.q[rows], self.gates[rows], keys, listed, torch.zeros_like(lengths), lengths, TOPK, names=listed,
                budget_bytes=0, out=out[rows],
            )  # fmt: skip
        return out


@pytest.mark.parametrize("shortlist", [SHORT, Shortlist(0.6, window=2)], ids=["keys", "fraction"])
def test_equals_the_definition(shortlist: Shortlist) -> None:
    context = Context(shortlist)
    assert torch.equal(context.run([LENGTH]), context.defined(shortlist))
    work = context.two_level.work
    assert work.rows > 0
    assert work.rows + work.exact_rows == LENGTH
    assert work.keys_seen == LENGTH * (LENGTH + 1) // 2


def test_lists_have_an_upper_bound_on_cuda() -> None:
    shortlist = Shortlist(1.0, most=6)
    assert [shortlist.pages(complete, TOPK) for complete in (3, 6, 7, 1 << 20)] == [3, 6, 6, 6]
    assert not shortlist.lists_all(7, TOPK)
    context = Context(shortlist)
    assert torch.equal(context.run([LENGTH]), context.defined(shortlist))


def test_chunks_and_other_pages_change_nothing() -> None:
    context = Context()
    whole = context.run([LENGTH])
    # Pages are used again: what the first run left in them must not be seen.
    assert torch.equal(context.run([256, 448, LENGTH]), whole)


def test_summaries_of_pages_that_were_decoded_or_prefilled_densely_are_made_when_they_are_wanted() -> None:
    context = Context()
    whole = context.run([LENGTH])
    table = context.place()
    context.write(table, 0, 8 * PAGE)
    context.two_level.pages.take(torch.arange(8 * PAGE), slots_of(table, 0, 8 * PAGE))  # no indexer ran
    assert torch.equal(context.forward((table, 8 * PAGE, LENGTH)), whole[8 * PAGE :])


def test_several_requests_and_padding_in_a_forward() -> None:
    context = Context()
    whole = context.run([LENGTH])
    one = context.place()
    two = context.place(avoid=one)
    context.forward((one, 0, 7 * PAGE))
    found = context.forward((one, 7 * PAGE, LENGTH), (two, 0, 7 * PAGE + 5), padding=3)
    assert torch.equal(found, torch.cat((whole[7 * PAGE :], whole[: 7 * PAGE + 5], torch.full((3, TOPK), -1))))


def test_a_single_row_is_scored_exactly() -> None:
    context = Context()
    table = context.place()
    context.forward((table, 0, LENGTH - 1))
    other = context.place(avoid=table)
    context.forward((other, 0, LENGTH - 4))
    found = context.forward((table, LENGTH - 1, LENGTH), (other, LENGTH - 4, LENGTH))
    assert torch.equal(found[:1], context.exact(torch.tensor([LENGTH - 1])))


@pytest.mark.parametrize("form", ["slots", "offsets"])
def test_the_forms_that_attention_wants(form: str) -> None:
    context = Context()
    table = context.place()
    context.forward((table, 0, 7 * PAGE))
    start = 7 * PAGE
    wanted = context.defined()[start:]
    found = context.forward((table, start, LENGTH), form=form)
    if form == "slots":
        expected = table[(wanted // PAGE).long()] * PAGE + wanted % PAGE
    else:
        expected = wanted + torch.arange(LENGTH - start, dtype=torch.int32)[:, None] * 1000
    assert torch.equal(found, expected)


def test_initial_and_local_positions_are_always_selected() -> None:
    context = Context(Shortlist(6 * PAGE))
    INDEXER.num_init_tokens, INDEXER.num_local_tokens = 5, 7
    try:
        found = context.run([LENGTH])
    finally:
        INDEXER.num_init_tokens = INDEXER.num_local_tokens = 0
    for t in range(7 * PAGE, LENGTH):
        assert {*range(5), *range(t - 6, t + 1)} <= set(found[t].tolist())


def slots_of(table: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """KV slots int64 of positions start to end."""
    position = torch.arange(start, end)
    return table[position // PAGE].long() * PAGE + position % PAGE


def first_listed(shortlist: Shortlist = SHORT) -> int:
    return PAGE * next(page for page in itertools.count() if not shortlist.lists_all(page, TOPK))


def test_recall_is_that_of_the_sampled_rows() -> None:
    guard = Guard(0.0, 8)
    context = Context(guard=guard)
    found = context.run([LENGTH])
    positions = torch.arange(first_listed(), LENGTH)
    samples = positions[guard.sampled(positions)]
    hits = sum(
        len(set(a) & set(b)) for a, b in zip(found[samples].tolist(), context.exact(samples).tolist(), strict=True)
    )
    context.two_level.refresh()
    seen = context.two_level.work.layers[LAYER]
    assert (seen.rows, seen.wanted, seen.found) == (len(samples), len(samples) * TOPK, hits)
    assert context.two_level.work.keys_sampled == int((samples + 1).sum())
    assert context.two_level.work.layers[2].rows == 0
    assert int(context.two_level.pages.guard[1].sum(0)[1]) == hits


def test_below_the_floor_a_context_is_scored_exactly_and_goes_on_being_judged() -> None:
    guard = Guard(0.999, 4)
    context = Context(guard=guard)
    table, middle = context.place(), 8 * PAGE
    context.forward((table, 0, middle))
    found = context.forward((table, middle, LENGTH))
    assert torch.equal(found, context.exact(torch.arange(middle, LENGTH)))
    seen = context.two_level.work.layers[LAYER]
    assert (seen.fallbacks, context.two_level.work.layers[2].fallbacks) == (1, 0)
    context.two_level.refresh()
    positions = torch.arange(first_listed(), LENGTH)
    assert seen.rows == int(guard.sampled(positions).sum()) >= SAMPLES
    # Another context is not concerned.
    context.forward((context.place(avoid=table), 0, middle))
    assert seen.fallbacks == 1


def test_known_selections_leave_the_same_samples() -> None:
    guard = Guard(0.0, 8)
    context = Context(guard=guard)
    one = context.place()
    context.forward((one, 0, 7 * PAGE))
    context.forward((one, 7 * PAGE, LENGTH))
    two = context.place(avoid=one)
    shared = torch.cat((one[:7], two[7:]))
    span = (shared, 7 * PAGE, LENGTH)
    context.write(*span)
    context.lay_out([span])
    context.two_level.watch(LAYER, context.inputs([span]))
    records = context.two_level.pages.guard[1]
    assert torch.equal(records[shared.long()], records[one.long()])
    assert records[one.long()].sum() > 0


def test_forgetting_makes_summaries_anew() -> None:
    context = Context()
    table = context.place()
    context.forward((table, 0, 8 * PAGE))
    assert int(context.two_level.pages.there.sum()) > 0
    context.two_level.forget()
    assert int(context.two_level.pages.there.sum()) == int(context.two_level.pages.guard.sum()) == 0
    assert torch.equal(context.forward((table, 8 * PAGE, LENGTH)), context.defined()[8 * PAGE :])
    context.two_level.refresh()
    assert context.two_level.pages.valid_pages == 0  # layer 2 never ran


def test_rows_whose_lists_save_too_little_are_scored_exactly() -> None:
    context = Context()
    start, end = 8 * PAGE, LENGTH
    saved = sum(position - SHORT.pages(position // PAGE, TOPK) * PAGE for position in range(start, end))
    table = context.place()
    context.forward((table, 0, start))
    for least, lists in ((saved + PAGE * (end - start), False), (saved - PAGE * (end - start), True)):
        context.two_level.min_saved = least
        context.lay_out([(table, start, end)])
        assert context.two_level.shortlists(LAYER) == lists
    context.two_level.min_saved = saved + PAGE * (end - start)
    found = context.forward((table, start, end))
    assert torch.equal(found, context.exact(torch.arange(start, end)))
    work = context.two_level.work
    before = work.exact_rows, work.exact_keys
    context.two_level.count_exact()
    assert work.exact_rows - before[0] == end - start
    assert work.exact_keys - before[1] == sum(range(start + 1, end + 1))
