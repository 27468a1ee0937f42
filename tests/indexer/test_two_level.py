"""Two-level selections against a row-by-row formula, and their independence of how a context was computed."""

import itertools
import math
from collections import Counter

import pytest
import torch

from sgl_indexcache.indexer.exact import Given, Queries, Selector
from sgl_indexcache.indexer.rows import Rows
from sgl_indexcache.indexer.shortlist import DIGESTS, VOTED, Shortlist
from sgl_indexcache.indexer.two_level import Guard, TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.kernels.shortlist import pack_summary, unpack_summary
from sgl_indexcache.store.pages import Pages

HEADS, DIM, TOPK, LENGTH, REQUESTS = 4, 16, 48, 11 * PAGE + 11, 3
SLOTS = 30 * PAGE
LAYER = 5


class Context:
    """One request's queries and keys, its KV slots, and a scheduler's memory."""

    def __init__(
        self, shortlist: Shortlist, guard: Guard | None = None, *, seed: int = 0, integers: bool = True
    ) -> None:
        random = torch.Generator().manual_seed(seed)

        def make(*shape: int) -> torch.Tensor:
            # Small integers: scores of keys are exact, so that no product's shape can change one by rounding.
            return (
                torch.randint(-3, 4, shape, generator=random).float()
                if integers
                else torch.randn(shape, generator=random)
            )

        self.q, self.gates, self.k = make(LENGTH, HEADS, DIM), make(LENGTH, HEADS), make(LENGTH, DIM)
        self.pages = Pages([2, LAYER], SLOTS, DIM, REQUESTS, LENGTH)
        self.scorer = TwoLevel(self.pages, shortlist, guard or Guard(0.0, 1 << 31))
        self.selector = Selector(TOPK)
        self.keys = torch.full((SLOTS, DIM), float("nan"))
        self.table = torch.zeros(REQUESTS, LENGTH, dtype=torch.int32)
        self.random = random

    def place(self, request: int, avoid: int | None = None) -> None:
        """Give the request pages anywhere, but none of request `avoid`."""
        ids = torch.randperm(SLOTS // PAGE, generator=self.random)
        if avoid is not None:
            ids = ids[~torch.isin(ids, self.table[avoid, ::PAGE] // PAGE)]
        ids = ids[: -(-LENGTH // PAGE)]
        slots = ids.unsqueeze(1) * PAGE + torch.arange(PAGE)
        self.table[request] = slots.flatten()[:LENGTH].int()

    def forward(self, request: int, start: int, end: int, given: Given | None = None) -> torch.Tensor:
        rows = Rows.of([request], [end], [end - start], end - start)
        self.keys[self.table[request, start:end].long()] = self.k[start:end]
        self.pages.begin(rows)
        queries: Queries = lambda part: (self.q[start:end][part], self.gates[start:end][part])  # noqa: E731
        return self.scorer.select(LAYER, self.selector, queries, self.keys, self.table, rows, given)

    def run(self, request: int, ends: list[int]) -> torch.Tensor:
        self.place(request)
        return torch.cat([self.forward(request, *part) for part in itertools.pairwise([0, *ends])])


def row_by_row(context: Context, shortlist: Shortlist) -> torch.Tensor:
    """The definition, position by position, with digests counted from whole selections."""
    means = [context.k[p * PAGE : (p + 1) * PAGE].mean(0) for p in range(LENGTH // PAGE)]
    means = [unpack_summary(pack_summary(mean)) for mean in means]
    out: list[torch.Tensor] = []
    digests: dict[int, list[tuple[int, int]]] = {}
    for t in range(LENGTH):
        page = t // PAGE
        scores = score(context.q[t : t + 1], context.k[: t + 1], context.gates[t : t + 1])
        n = shortlist.pages(page, TOPK)
        if n < page:
            votes: dict[int, int] = {}
            for before in range(page - DIGESTS, page):
                if before not in digests:
                    seen = Counter(
                        p // PAGE for row in out[before * PAGE : (before + 1) * PAGE] for p in row.tolist() if p >= 0
                    )
                    digests[before] = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:32]
                for name, count in digests[before]:
                    votes[name] = votes.get(name, 0) + count
            voted = sorted((v for v in votes.items() if v[0] < page), key=lambda item: (-item[1], item[0]))[:VOTED]
            forced = {0, *range(page - shortlist.window, page), *(name for name, _ in voted)}
            by_mean = score(context.q[t : t + 1], torch.stack(means[:page]), context.gates[t : t + 1])[0].tolist()
            order = sorted(range(page), key=lambda p: (p not in forced, -by_mean[p], p))
            outside = torch.tensor([p for p in range(page) if p not in order[:n]])
            scores.view(-1)[(outside.unsqueeze(1) * PAGE + torch.arange(PAGE)).flatten()] = -1e30
        out.append(select(scores, torch.tensor([t + 1]), TOPK)[0])
    return torch.stack(out)


@pytest.mark.parametrize("shortlist", [Shortlist(6 * PAGE), Shortlist(0.5, window=3)], ids=["keys", "fraction"])
def test_equals_the_definition(shortlist: Shortlist) -> None:
    context = Context(shortlist)
    assert torch.equal(context.run(1, [LENGTH]), row_by_row(context, shortlist))
    assert context.scorer.work.rows > 0


@pytest.mark.parametrize(
    "ends",
    [
        [384, 640, LENGTH],
        [*range(64, LENGTH, 64), LENGTH],
        [560, *range(561, LENGTH + 1)],
        [500, 501, 530, 600, LENGTH],
    ],
    ids=["chunks", "pages", "decode", "ragged"],
)
@pytest.mark.parametrize("floor", [0.0, 0.8], ids=["", "guarded"])
def test_a_context_selects_the_same_however_it_was_computed(ends: list[int], floor: float) -> None:
    context = Context(Shortlist(6 * PAGE), Guard(floor, 16))
    whole = context.run(1, [LENGTH])
    # Pages are used again: what the first run left in them must not be seen.
    assert torch.equal(context.run(2, ends), whole)
    assert any(seen.fallbacks for seen in context.scorer.work.layers.values()) == (floor > 0)


def test_a_warm_turn_reads_the_records_of_its_prefix() -> None:
    context = Context(Shortlist(6 * PAGE))
    whole = context.run(1, [LENGTH])
    context.place(2, avoid=1)
    shared = 8 * PAGE
    context.table[2, :shared] = context.table[1, :shared]
    assert torch.equal(context.forward(2, shared, LENGTH), whole[shared:])


def test_a_shortlist_of_everything_is_exact() -> None:
    context = Context(Shortlist(1.0), integers=False)
    rows = Rows.of([1], [LENGTH], [LENGTH], LENGTH)
    found = context.run(1, [LENGTH])
    exact = context.selector(lambda part: (context.q[part], context.gates[part]), context.keys, context.table, rows)
    assert torch.equal(found, exact)
    work = context.scorer.work
    assert (work.exact_rows, work.rows, work.keys_scored) == (LENGTH, 0, work.keys_seen)


def test_selections_are_positions_of_the_row_s_past() -> None:
    context = Context(Shortlist(6 * PAGE), integers=False)
    found = context.run(1, [LENGTH])
    lengths = torch.arange(1, LENGTH + 1)
    assert (found < lengths.unsqueeze(1)).all()
    assert torch.equal((found >= 0).sum(1), lengths.clamp(max=TOPK))
    assert (found[:, 1:] > found[:, :-1])[found[:, 1:] >= 0].all()


def test_initial_and_local_positions_are_always_selected() -> None:
    context = Context(Shortlist(8 * PAGE), integers=False)
    context.selector = Selector(TOPK, initial=5, local=7)
    found = context.run(1, [600, LENGTH])
    for t in range(TOPK, LENGTH):
        assert {*range(5), *range(t - 6, t + 1)} <= set(found[t].tolist())


def test_the_work_is_counted_key_by_key() -> None:
    shortlist, every = Shortlist(6 * PAGE), 32
    context = Context(shortlist, Guard(0.0, every))
    context.run(1, [LENGTH])
    work = context.scorer.work
    positions = torch.arange(LENGTH)
    complete = positions // PAGE
    listed = positions >= context_start(shortlist) * PAGE
    samples = positions[listed & Guard(0.0, every).sampled(positions)]
    keys = torch.where(listed, 6 * PAGE + positions % PAGE + 1, positions + 1).sum()
    assert work.rows == int(listed.sum())
    assert work.exact_rows == int((~listed).sum())
    assert work.summaries_scored == int(complete[listed].sum())
    assert work.keys_seen == int((positions + 1).sum())
    assert work.keys_scored == int(keys)
    assert work.keys_sampled == int((samples + 1).sum())
    seen = work.layers[LAYER]
    assert (seen.rows, seen.wanted) == (len(samples), len(samples) * TOPK)
    assert 0 < work.snapshot()["recall"][str(LAYER)] < 1


def context_start(shortlist: Shortlist) -> int:
    return next(page for page in itertools.count() if not shortlist.lists_all(page, TOPK))


def test_the_guard_s_recall_is_that_of_its_rows() -> None:
    every = 8
    context = Context(Shortlist(6 * PAGE), Guard(0.0, every), integers=False)
    found = context.run(1, [LENGTH])
    rows = Rows.of([1], [LENGTH], [LENGTH], LENGTH)
    exact = context.selector(lambda part: (context.q[part], context.gates[part]), context.keys, context.table, rows)
    positions = torch.arange(context_start(Shortlist(6 * PAGE)) * PAGE, LENGTH)
    samples = positions[context.scorer.guard.sampled(positions)]
    assert math.isclose(len(samples), len(positions) / every, rel_tol=0.3)
    hits = sum(len(set(found[t].tolist()) & set(exact[t].tolist())) for t in samples.tolist())
    assert context.scorer.work.layers[LAYER].found == hits


def test_below_the_floor_a_context_is_scored_exactly() -> None:
    context = Context(Shortlist(6 * PAGE), Guard(0.999, 8), integers=False)
    found = context.run(1, [LENGTH])
    rows = Rows.of([1], [LENGTH], [LENGTH], LENGTH)
    exact = context.selector(lambda part: (context.q[part], context.gates[part]), context.keys, context.table, rows)
    assert torch.equal(found[-PAGE:], exact[-PAGE:])
    assert not torch.equal(found, exact)
    seen = context.scorer.work.layers[LAYER]
    assert seen.fallbacks == 1
    # The guard goes on watching what two-level scoring would find, so that a context can come back.
    positions = torch.arange(context_start(Shortlist(6 * PAGE)) * PAGE, LENGTH)
    assert seen.rows == int(context.scorer.guard.sampled(positions).sum())
    assert seen.found < seen.wanted
    context.forward(1, LENGTH - 1, LENGTH)  # a decoded row inherits it and is not counted again
    assert context.scorer.work.layers[LAYER].fallbacks == 1


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
def test_a_context_is_judged_by_its_latest_samples(pages: list[tuple[int, int]], trips: bool) -> None:
    table = torch.tensor(pages, dtype=torch.int64).view(-1, 2) * TOPK
    assert Guard(0.9, 1).trips(table, TOPK) == trips


def test_a_prefix_without_records_is_scored_exactly_and_counted() -> None:
    context = Context(Shortlist(6 * PAGE), integers=False)
    context.run(1, [8 * PAGE])
    context.scorer.forget()
    found = context.forward(1, 8 * PAGE, LENGTH)
    rows = Rows.of([1], [LENGTH], [LENGTH - 8 * PAGE], LENGTH - 8 * PAGE)
    past = slice(8 * PAGE, LENGTH)
    exact = context.selector(
        lambda part: (context.q[past][part], context.gates[past][part]), context.keys, context.table, rows
    )
    assert torch.equal(found, exact)
    assert context.scorer.work.invalid == 1


def test_known_selections_are_taken_and_leave_the_same_records() -> None:
    context = Context(Shortlist(6 * PAGE), Guard(0.0, 8))
    whole = context.run(1, [LENGTH])
    first = 9 * PAGE
    context.place(2, avoid=1)
    context.table[2, :first] = context.table[1, :first]
    known = torch.ones(LENGTH - first, dtype=torch.bool)
    given = Given(whole[first:].clone(), known, ~known, torch.zeros(LENGTH - first))
    before = context.scorer.work.rows
    assert torch.equal(context.forward(2, first, LENGTH, given), whole[first:])
    assert context.scorer.work.rows == before
    one, two = (context.table[r, first:LENGTH:PAGE].long() // PAGE for r in (1, 2))
    for name in ("summaries", "digest", "guard", "filled"):
        record = getattr(context.pages, name)[1]
        assert torch.equal(record[one], record[two]), name
