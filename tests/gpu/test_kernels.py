"""On a GPU: the indexer kernels against float64 and against their references, in graphs and at large addresses."""

import sys
from pathlib import Path

import pytest
import torch

from sgl_indexcache.kernels.layout import unpack
from sgl_indexcache.kernels.score.cuda import padded, score_paged
from sgl_indexcache.kernels.score.reference import score_paged as score_reference
from sgl_indexcache.kernels.score_select import reference
from sgl_indexcache.kernels.score_select.cuda import score_select
from sgl_indexcache.kernels.select.cuda import select
from sgl_indexcache.kernels.select.reference import select as select_reference
from sgl_indexcache.kernels.shortlist import GROUP
from sgl_indexcache.kernels.shortlist import cuda as shortlist_cuda
from sgl_indexcache.kernels.shortlist import reference as shortlist

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))
from indexer_cases import DIM, PAGE, Problem, problem

# The tensor cores add fp8 products with fewer bits than float32; relative to the largest score of a row.
TOLERANCE = 1e-3


def check(p: Problem, got: torch.Tensor, k: int) -> None:
    """Ascending, packed, within the length, and no key left out whose score is above those taken."""
    scores = score_reference(*p.arguments, max_length=p.longest)
    for row, length in enumerate(p.lengths.tolist()):
        count = min(k, length)
        chosen = got[row, :count].long()
        assert (got[row, count:] == -1).all()
        if count == 0:
            continue
        assert (chosen.diff() > 0).all()
        assert int(chosen[0]) >= 0
        assert int(chosen[-1]) < length
        if length > k:
            seen = scores[row, :length]
            slack = TOLERANCE * float(seen.abs().max())
            bound = float(seen.topk(k).values[-1])
            left = torch.ones_like(seen, dtype=torch.bool)
            left[chosen] = False
            assert float(seen[chosen].min()) >= bound - slack
            assert float(seen[left].max()) <= bound + slack


@pytest.mark.parametrize("heads", [16, 32, 64])
@pytest.mark.parametrize("k", [256, 512, 2048])
def test_selection_against_float64(heads: int, k: int) -> None:
    rows = [list(range(2990, 3053)), [1], [k], [k + 1], [0], list(range(9000, 9111)), [70001]]
    p = problem(rows, heads, device="cuda")
    check(p, score_select(*p.arguments, k, max_length=p.longest), k)


def test_ties_are_exact() -> None:
    """Small whole numbers: every sum is exact, so the selection is the reference's to the position."""
    p = problem([[9000, 9001], [4097], [40000]], equal=True, device="cuda")
    expected = reference.score_select(*p.arguments, 512, max_length=p.longest)
    assert torch.equal(score_select(*p.arguments, 512, max_length=p.longest), expected)


def test_all_equal_scores() -> None:
    p = problem([[70000], [2049]], device="cuda")
    p.weights.zero_()
    chosen = score_select(*p.arguments, 2048, max_length=p.longest)
    assert torch.equal(chosen, torch.arange(2048, dtype=torch.int32, device="cuda").expand(2, 2048))


@pytest.mark.parametrize("width", [1, 2049, 40_000, 262_144, 700_000])
def test_select_equals_the_reference(width: int) -> None:
    torch.manual_seed(width)
    scores = torch.cat([torch.randn(3, width), torch.randint(-3, 4, (2, width)).float()])
    lengths = torch.tensor([width, width - width // 3, 1, width, width - 1], dtype=torch.int32)
    given = scores.clone().cuda()
    for row, length in enumerate(lengths.tolist()):
        given[row, length:] = float("nan")
    expected = select_reference(scores, lengths, 2048)
    assert torch.equal(select(given, lengths.cuda(), 2048).cpu(), expected)


def test_poisoned_scratch_slices_forced_positions_and_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = torch.empty
    monkeypatch.setattr(
        torch, "empty", lambda *a, **o: (t := fresh(*a, **o)).fill_(float("nan") if t.is_floating_point() else 2**30)
    )
    p = problem([list(range(5000, 5050)), [3000], [7]], device="cuda")
    whole = score_select(*p.arguments, 256, max_length=p.longest)
    sliced = score_select(*p.arguments, 256, max_length=p.longest, budget_bytes=1 << 19)
    assert torch.equal(whole, sliced)
    check(p, whole, 256)
    slots = score_select(*p.arguments, 256, max_length=p.longest, names=p.page_table)
    page = p.page_table[p.request.long()].gather(1, whole.clamp(min=0).long() // PAGE)
    assert torch.equal(slots, torch.where(whole < 0, -1, page * PAGE + whole % PAGE))
    forced = score_select(*p.arguments, 256, max_length=p.longest, initial=4, local=64)
    assert forced[0, :4].tolist() == [0, 1, 2, 3]
    assert forced[0, -64:].tolist() == list(range(5000 - 64, 5000))


def test_graph_replays_with_padded_batches() -> None:
    """Captured once for eight requests of any length, replayed with fewer and others."""
    width = padded(20_000)
    batches = [problem(rows, seed=seed, device="cuda") for seed, rows in enumerate([
        [[1], [2500], [20_000], [0], [0], [0], [0], [0]],
        [[9000], [9001], [9002], [9003], [300], [19_999], [2048], [2049]],
    ])]  # fmt: skip
    most = max(p.index_k.shape[0] for p in batches)
    q = torch.zeros_like(batches[0].q)
    weights, lengths = torch.zeros_like(batches[0].weights), torch.zeros_like(batches[0].lengths)
    index_k = torch.zeros(most, batches[0].index_k.shape[1], dtype=torch.uint8, device="cuda")
    table = torch.zeros(8, width // PAGE, dtype=torch.int32, device="cuda")
    request = torch.arange(8, dtype=torch.int32, device="cuda")
    out = torch.empty(8, 2048, dtype=torch.int32, device="cuda")

    def call() -> None:
        score_select(q, weights, index_k, table, request, lengths, 2048, max_length=width, out=out)

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    for p in [*batches, batches[0]]:
        q.view(torch.uint8).copy_(p.q.view(torch.uint8))
        weights.copy_(p.weights)
        lengths.copy_(p.lengths)
        index_k[: p.index_k.shape[0]] = p.index_k
        table[:, : p.page_table.shape[1]] = p.page_table
        out.fill_(7)
        graph.replay()
        eager = score_select(*p.arguments, 2048, max_length=p.longest)
        assert torch.equal(out, eager)
        check(p, out, 2048)


def test_requests_that_share_pages_select_as_alone() -> None:
    p = problem([[9000], [8900], [9100], [9064]], shared_pages=130, device="cuda")
    together = score_select(*p.arguments, 512, max_length=p.longest)
    check(p, together, 512)
    for row in range(4):
        one = slice(row, row + 1)
        alone = score_select(
            p.q[one], p.weights[one], p.index_k, p.page_table, p.request[one], p.lengths[one], 512, max_length=p.longest
        )
        assert torch.equal(alone, together[one])


def test_pages_beyond_two_gigabytes() -> None:
    small = problem([[3000], [2000, 2001]], device="cuda")
    needed = small.index_k.shape[0]
    pages = (1 << 31) // (PAGE * (DIM + 4)) + needed + 100
    if torch.cuda.mem_get_info()[0] < 3 * pages * PAGE * (DIM + 4):
        pytest.skip("needs 7 GB of free GPU memory")
    big = torch.empty(pages, PAGE * (DIM + 4), dtype=torch.uint8, device="cuda")
    big[-needed:] = small.index_k
    expected = score_select(*small.arguments, 256, max_length=small.longest)
    moved = torch.where(small.page_table < needed, small.page_table + (pages - needed), small.page_table)
    arguments = (small.q, small.weights, big, moved, small.request, small.lengths)
    assert torch.equal(score_select(*arguments, 256, max_length=small.longest), expected)


def test_logits_beyond_two_gigabytes() -> None:
    """Rows whose logits lie past 2^31 bytes, in a slice that a large budget allows."""
    p = problem([[200_001]], device="cuda")
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("needs 12 GB of free GPU memory")
    rows = 3000
    many = Problem(
        p.q.expand(rows, -1, -1).contiguous(), p.weights.expand(rows, -1).contiguous(), p.index_k, p.page_table,
        p.request.expand(rows).contiguous(), p.lengths.expand(rows).contiguous(),
    )  # fmt: skip
    got = score_select(*many.arguments, 2048, max_length=p.longest, budget_bytes=4 << 30)
    assert torch.equal(got, score_select(*p.arguments, 2048, max_length=p.longest).expand(rows, -1))
    check(p, got[-1:], 2048)


@pytest.mark.parametrize("heads", [16, 32, 64])
def test_scores_against_float64(heads: int) -> None:
    p = problem([[5000, 5001, 5002], [300]], heads, device="cuda")
    got = score_paged(*p.arguments, max_length=p.longest)
    expected = score_reference(*p.arguments, max_length=p.longest)
    for row, length in enumerate(p.lengths.tolist()):
        error = (got[row, :length].double() - expected[row, :length]).norm() / expected[row, :length].norm()
        assert float(error) < TOLERANCE


def test_no_rows() -> None:
    p = problem([], device="cuda")
    assert score_select(*p.arguments, 256, max_length=640).shape == (0, 256)


@pytest.mark.parametrize("heads", [16, 32, 64])
def test_two_levels_against_their_reference(heads: int) -> None:
    """Compiled; the interpreter runs summaries and both levels in tests/kernels/test_shortlist.py."""
    start, rows, n, k = 40 * PAGE + 8, 75, 9, 256
    p = problem([list(range(start + 1, start + rows + 1))], heads, equal=True, device="cuda")
    position = p.lengths - 1
    group = position // GROUP - start // GROUP
    first = torch.cat((group.new_ones(1), group.diff())).nonzero()[:, 0]
    complete, table = (position // PAGE)[first].contiguous(), p.page_table[0]
    pool, most = p.index_k.shape[0], int(position[-1]) // PAGE
    summaries = torch.zeros(pool, DIM + 4, dtype=torch.uint8, device="cuda")
    there = torch.zeros(pool, dtype=torch.uint8, device="cuda")
    packed = shortlist_cuda.summarise(p.index_k, table, summaries, there, most)
    twice = shortlist_cuda.summarise(p.index_k, table, summaries, there, most)
    means = unpack(packed, torch.arange(1, device="cuda"))[:most].float()
    assert torch.equal(unpack(twice, torch.arange(1, device="cuda"))[:most].float(), means)
    assert int(there.sum()) == most
    other = [torch.zeros_like(summaries), torch.zeros_like(there)]
    expected = shortlist.summarise(p.index_k, table, *other, most)
    expected_means = unpack(expected, torch.arange(1, device="cuda"))[:most].float()
    # One step of fp8 where the order of a sum decides a rounding.
    torch.testing.assert_close(means, expected_means, rtol=0.13, atol=1e-6)
    assert ((means - expected_means).abs() > 1e-6).float().mean() < 0.01
    lists = torch.empty(len(first), n + 1, dtype=torch.int32, device="cuda")
    lists[:, n] = complete
    q = p.q.view(torch.uint8)[first].view(p.q.dtype)
    shortlist_cuda.list_pages(
        q, p.weights[first], packed, complete, n, max_complete=most, window=1, budget_bytes=1 << 20, out=lists[:, :n]
    )
    wanted = torch.empty_like(lists[:, :n])
    shortlist.list_pages(
        q, p.weights[first], packed, complete, n, max_complete=most, window=1, budget_bytes=0, out=wanted
    )
    # Means are no whole numbers: pages whose scores are nearly equal may change places.
    same = (lists[:, :n].unsqueeze(2) == wanted.unsqueeze(1)).any(2).float().mean()
    assert float(same) > 0.97
    pages = table[lists.long()]
    lengths = (n * PAGE + position % PAGE + 1).int()
    out = torch.empty(rows, k, dtype=torch.int32, device="cuda")
    shortlist_cuda.select_listed(
        p.q, p.weights, p.index_k, pages, group, lengths, k, names=lists, budget_bytes=1 << 20, out=out
    )
    want = torch.empty_like(out)
    shortlist.select_listed(p.q, p.weights, p.index_k, pages, group, lengths, k, names=lists, budget_bytes=0, out=want)
    assert torch.equal(out, want)


@pytest.mark.parametrize("width", [16, 2048, 4096, 16_320, 16_384, 24_000, 32_768])
def test_select_among_few_equals_the_reference(width: int) -> None:
    """Rows that are read whole; of all sizes of registers."""
    torch.manual_seed(width)
    scores = torch.cat([torch.randn(3, width), torch.randint(-3, 4, (2, width)).float()])
    lengths = torch.tensor([width, width - width // 3, 1, width, width - 1], dtype=torch.int32)
    for k in (7, 256, 2048):
        expected = select_reference(scores.clone(), lengths, k)
        assert torch.equal(select(scores.cuda(), lengths.cuda(), k).cpu(), expected)
