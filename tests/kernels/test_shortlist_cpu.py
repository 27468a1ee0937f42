"""Two-level scoring on the CPU against its reference, over the same plain keys."""

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE, pack
from sgl_indexcache.kernels.shortlist import cpu, reference

HEADS, DIM, POOL, TOPK = 3, 16, 24, 20


def whole(*shape: int) -> torch.Tensor:
    """Small whole numbers: scores of keys are exact in either arithmetic."""
    return torch.randint(-3, 4, shape).float()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_summaries_are_made_once_and_are_those_of_the_reference() -> None:
    keys, table = torch.randn(POOL, PAGE, DIM), torch.randperm(POOL)[:7].int()
    records = [(torch.zeros(POOL, DIM + 4, dtype=torch.uint8), torch.zeros(POOL, dtype=torch.uint8)) for _ in range(2)]
    means = cpu.summarise(keys, table, *records[0], 5)
    packed = reference.summarise(keys, table, *records[1], 5)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*records, strict=True))
    assert torch.equal(means, reference.unpack(packed, torch.arange(1))[:5].float())
    keys.fill_(float("nan"))
    assert torch.equal(cpu.summarise(keys, table, *records[0], 5), means)
    assert cpu.summarise(keys, table, *records[0], 0).shape == (0, DIM)


@pytest.mark.parametrize("budget_bytes", [1, 1 << 20], ids=["row by row", "at once"])
@pytest.mark.parametrize("window", [1, 3])
def test_lists_are_those_of_the_reference(window: int, budget_bytes: int) -> None:
    q, w, means = whole(9, HEADS, DIM), whole(9, HEADS), whole(12, DIM)
    complete = torch.tensor([5, 5, 6, 7, 9, 9, 10, 12, 12], dtype=torch.int32)
    packed = pack(
        torch.nn.functional.pad(means, (0, 0, 0, PAGE - 12)).to(torch.float8_e4m3fn)[None], torch.ones(1, PAGE)
    )
    ours, theirs = (torch.empty(9, 4, dtype=torch.int32) for _ in range(2))
    options = {"max_complete": 12, "window": window, "budget_bytes": budget_bytes}
    cpu.list_pages(q, w, means, complete, 4, **options, out=ours)
    reference.list_pages(q, w, packed, complete, 4, **options, out=theirs)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("group", ["row", "shared"])
@pytest.mark.parametrize(("initial", "local"), [(0, 0), (5, 9)])
def test_selections_are_those_of_the_reference(group: str, initial: int, local: int) -> None:
    rows = 2 * cpu.ROWS_AT_ONCE + 7
    groups = torch.arange(rows, dtype=torch.int32) // (1 if group == "row" else 4)
    q, w, keys = whole(rows, HEADS, DIM), whole(rows, HEADS), whole(POOL, PAGE, DIM)
    listed = torch.stack([torch.randperm(POOL - 1)[:4].sort().values for _ in range(int(groups[-1]) + 1)]).int()
    own = torch.full((len(listed), 1), POOL - 1, dtype=torch.int32)
    names = torch.cat((listed, own), 1)
    pages = torch.randperm(POOL).int()[names.long()]
    lengths = (4 * PAGE + torch.randint(1, PAGE + 1, (rows,))).int()
    # What lies behind a row's own position is not there yet.
    keys[pages[0, -1].long(), 60:] = float("nan")
    lengths.clamp_(max=4 * PAGE + 60)
    ours, theirs = (torch.empty(rows, TOPK, dtype=torch.int32) for _ in range(2))
    options = {"names": names, "initial": initial, "local": local, "budget_bytes": 1 << 20}
    cpu.select_listed(q, w, keys, pages, groups, lengths, TOPK, **options, out=ours)
    reference.select_listed(q, w, keys, pages, groups, lengths, TOPK, **options, out=theirs)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("counted", [True, False])
def test_samples_are_judged_as_by_the_reference(counted: bool) -> None:
    exact = torch.stack([torch.randperm(9 * PAGE)[:TOPK].sort().values for _ in range(6)]).int()
    exact[2, 15:] = -1
    listed = torch.stack([torch.randperm(8)[:4].sort().values for _ in range(3)]).int()
    listed = torch.cat((listed, torch.full((3, 1), 9, dtype=torch.int32)), 1)
    group, table = torch.tensor([0, 0, 1, 2, 2, 2], dtype=torch.int32), torch.randperm(POOL).int()
    lengths = torch.tensor([1, 9 * PAGE, 9 * PAGE + 1, 9 * PAGE + 9, 9 * PAGE + 9, 10 * PAGE], dtype=torch.int32)
    results = []
    for form in (cpu, reference):
        guard, counts = torch.ones(POOL, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int64)
        form.judge(exact, listed, group, table, lengths, guard, counts, counted=counted)
        results.append((guard, counts))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))
    assert bool(results[0][1].any()) == counted


def test_verdicts_are_those_of_the_reference() -> None:
    guard = torch.randint(0, 30, (3, POOL, 2)).int()
    guard[..., 1] = (guard[..., 0] * torch.rand(3, POOL)).int()
    guard[:, torch.randperm(POOL)[:8]] = 0
    table = torch.stack([torch.randperm(POOL) for _ in range(20)]).int()
    requests, complete = torch.randperm(20).int(), torch.randint(0, POOL, (20,)).int()
    complete[0] = 0
    ours, theirs = (torch.full((3, 20), 7) for _ in range(2))
    cpu.verdicts(guard, table, requests, complete, 40, 0.5, ours)
    reference.verdicts(guard, table, requests, complete, 40, 0.5, theirs)
    assert torch.equal(ours, theirs)
    assert 0 < int(ours.sum()) < 60
