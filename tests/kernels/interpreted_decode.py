"""Two-level scoring of decode steps in Triton's interpreter; run by test_shortlist.py in a process of its own."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.kernels.score_select.reference import pack, score_select
from sgl_indexcache.kernels.shortlist import PAGE, pack_summary, reference, unpack_summary
from sgl_indexcache.kernels.shortlist.decode import Judgement, Records, select_decoded

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)

DIM, K, N, POOL = 32, 40, 6, 60
NEVER = Judgement(every=1 << 30, need=1, floor=0.0)


@dataclass
class Step:
    """Rows of one decode step: small integers, so that scores are exact."""

    lengths: list[int]
    heads: int = 5
    seed: int = 0
    records: Records = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        rows = len(self.lengths)
        keys = torch.randint(-3, 4, (POOL, PAGE, DIM)).float().to(torch.float8_e4m3fn)
        self.index_k = pack(keys, torch.ones(POOL, PAGE))
        self.q = torch.randint(-3, 4, (rows, self.heads, DIM)).float().to(torch.float8_e4m3fn)
        self.w = torch.randint(1, 5, (rows, self.heads)).float()
        width = -(-max(self.lengths) // PAGE) + 2
        self.table = torch.stack([torch.randperm(POOL - 1)[:width] + 1 for _ in self.lengths]).int()
        self.n_seen = torch.tensor(self.lengths, dtype=torch.int32)
        self.records = Records(
            torch.full((POOL, DIM + 4), 255, dtype=torch.uint8),
            torch.zeros(POOL, dtype=torch.uint8),
            torch.zeros(POOL, 2, dtype=torch.int32),
            torch.zeros(4, dtype=torch.int64),
        )

    def select(self, judgement: Judgement = NEVER, slots: bool = False, window: int = 1, n: int = N) -> torch.Tensor:
        out = torch.full((len(self.lengths), K), -9, dtype=torch.int32)
        select_decoded(
            self.q, self.w, self.index_k, self.table, self.n_seen, self.records, n, K, judgement,
            window=window, slots=slots, budget_bytes=1 << 20, out=out,
        )  # fmt: skip
        return out

    def defined(self, window: int = 1, n: int = N) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return reference.select_decoded(self.q, self.w, self.index_k, self.table, self.n_seen, n, K, window)

    def exact(self) -> torch.Tensor:
        rows = torch.arange(len(self.lengths), dtype=torch.int32)
        found: torch.Tensor = score_select(self.q, self.w, self.index_k, self.table, rows, self.n_seen, K)
        return found

    def slots(self, positions: torch.Tensor) -> torch.Tensor:
        pages = self.table.gather(1, (positions.clamp(min=0) // PAGE).long())
        return torch.where(positions < 0, -1, pages * PAGE + positions % PAGE).int()


MIXED = [10 * PAGE + 3, 1, 30, 8 * PAGE, 7 * PAGE, 6 * PAGE + 1, 12 * PAGE + 64]


@pytest.mark.parametrize(("heads", "window"), [(5, 1), (16, 3)])
def test_equals_the_reference(heads: int, window: int) -> None:
    step = Step(MIXED, heads)
    want, _ = step.defined(window)
    assert torch.equal(step.select(window=window), want)
    assert torch.equal(step.select(window=window, slots=True), step.slots(want))
    assert step.records.counts.eq(0).all()
    assert step.records.guard.eq(0).all()


def test_makes_the_summaries_of_complete_pages_alone() -> None:
    step = Step([5 * PAGE, 5 * PAGE + 1, 9 * PAGE + 5])
    shared = step.table[2, 0]
    step.table[1, 0] = shared  # two requests with one prefix
    step.select()
    made = {int(page) for row, complete in enumerate((4, 5, 9)) for page in step.table[row, :complete]}
    assert set(step.records.there.nonzero()[:, 0].tolist()) == made
    page = int(shared)
    mean = step.index_k[page, : PAGE * DIM].view(torch.float8_e4m3fn).float().view(PAGE, DIM).mean(0)
    torch.testing.assert_close(
        unpack_summary(step.records.summaries[page]), unpack_summary(pack_summary(mean)), rtol=0.13, atol=1e-6
    )


def test_padding_selects_nothing() -> None:
    step = Step([9 * PAGE, 1, 1])
    step.n_seen[1] = 0
    step.table[1:] = 0
    assert step.select()[1].eq(-1).all()
    assert not step.records.there[0]


def test_samples_are_judged_by_what_their_lists_hold() -> None:
    step = Step([9 * PAGE + row for row in range(1, 9)])
    guard = Guard(0.0, 2)
    sampled = guard.sampled(step.n_seen.long() - 1)
    assert 0 < int(sampled.sum()) < len(sampled)
    selected = step.select(Judgement(every=2, need=1 << 20, floor=0.0))
    exact, (want, lists) = step.exact(), step.defined()
    assert torch.equal(selected, want)
    held = torch.tensor([int(torch.isin(row // PAGE, listed).sum()) for row, listed in zip(exact, lists, strict=True)])
    assert int(held.max()) < K or int(held.min()) < K
    assert step.records.counts.tolist() == [int(sampled.sum()), int(held[sampled].sum()), 0, 0]
    guarded = torch.zeros(POOL, 2, dtype=torch.int32)
    for row in sampled.nonzero()[:, 0].tolist():
        guarded[int(step.table[row, 9])] += torch.tensor([K, int(held[row])], dtype=torch.int32)
    assert torch.equal(step.records.guard, guarded)


@pytest.mark.parametrize("slots", [False, True])
def test_a_context_below_the_floor_is_scored_exactly(slots: bool) -> None:
    step = Step([9 * PAGE + 7, 10 * PAGE, 11 * PAGE, 5 * PAGE])
    step.table = torch.arange(1, 1 + 4 * 13, dtype=torch.int32).view(4, 13)  # no page belongs to two
    counts = step.records.guard
    # Bad long ago, good of late; bad of late; too few samples; a context that lists everything.
    counts[step.table[0, 1]] = torch.tensor([10 * K, 0], dtype=torch.int32)
    counts[step.table[0, 7]] = torch.tensor([2 * K, 2 * K], dtype=torch.int32)
    counts[step.table[1, 1]] = torch.tensor([10 * K, 10 * K], dtype=torch.int32)
    counts[step.table[1, 8]] = torch.tensor([2 * K, K], dtype=torch.int32)
    counts[step.table[2, 8]] = torch.tensor([K, 0], dtype=torch.int32)
    counts[step.table[3, 2]] = torch.tensor([9 * K, 0], dtype=torch.int32)
    found = step.select(Judgement(every=1 << 30, need=2 * K, floor=0.9), slots=slots)
    want, _ = step.defined()
    want[1] = step.exact()[1]
    assert torch.equal(found, step.slots(want) if slots else want)
    assert step.records.counts.tolist() == [0, 0, 1, 10 * PAGE]


def test_other_layouts_are_refused() -> None:
    step = Step([9 * PAGE])
    step.table = step.table.repeat(2, 1)
    with pytest.raises(ValueError, match="a line for each"):
        step.select()
    step = Step([9 * PAGE])
    step.records = Records(torch.zeros(3, DIM + 4, dtype=torch.uint8), *[step.records.there] * 3)
    with pytest.raises(ValueError, match="summaries must be"):
        step.select()
