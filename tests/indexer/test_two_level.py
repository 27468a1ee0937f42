"""Two-level scoring against its definition, with the CPU's kernels and with CUDA's, for which references stand in."""

import pytest
import torch

from sgl_indexcache.indexer.guard import SAMPLES, Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.selection import Terms

from .context import LAYER, LENGTH, NEVER, POOL, SHORT, TOPK, Context, first_listed, kernels_of, slots_of


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


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


@pytest.mark.parametrize(
    "ends",
    [[256, 448, LENGTH], [*range(PAGE, LENGTH, PAGE), LENGTH], [500, 502, 530, LENGTH]],
    ids=["chunks", "pages", "ragged"],
)
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


def test_other_layers_wait_for_the_samples_of_the_layers_before(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context("cuda")
    calls: list[str] = []
    monkeypatch.setattr(context.two_level._samples, "join", lambda: calls.append("join"))
    monkeypatch.setattr(context.records, "configure", lambda layers: calls.append(f"configure {layers}"))
    context.two_level.configure([3])
    assert calls == ["join", "configure [3]"]
    assert context.two_level.layers == (3,)


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
