"""Decode steps with lists in Triton's interpreter; run by tests/kernels/test_shortlist.py in a process of its own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE, pack
from sgl_indexcache.kernels.score_select.reference import score_select
from sgl_indexcache.kernels.shortlist import (
    Judgement,
    Records,
    is_sampled,
    pack_summary,
    reference,
    unpack_summary,
)
from sgl_indexcache.kernels.shortlist.cuda_decode import select_decoded

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)

DIM, K, N, POOL = 32, 40, 6, 60
NEVER = Judgement(every=1 << 30, need=1, floor=0.0)


class Step:
    """Rows of one decode step: small integers, so that scores are exact."""

    def __init__(self, lengths: list[int], heads: int = 5) -> None:
        torch.manual_seed(0)
        rows = len(lengths)
        keys = torch.randint(-3, 4, (POOL, PAGE, DIM)).float().to(torch.float8_e4m3fn)
        self.index_k = pack(keys, torch.ones(POOL, PAGE))
        self.q = torch.randint(-3, 4, (rows, heads, DIM)).float().to(torch.float8_e4m3fn)
        self.w = torch.randint(1, 5, (rows, heads)).float()
        width = -(-max(lengths) // PAGE) + 2
        self.table = torch.stack([torch.randperm(POOL - 1)[:width] + 1 for _ in lengths]).int()
        self.lengths = torch.tensor(lengths, dtype=torch.int32)
        self.guard = torch.zeros(POOL, 2, dtype=torch.int32)

    def run(self, form: Callable[..., None], judgement: Judgement, **options: Any) -> tuple[torch.Tensor, Records]:
        out = torch.full((len(self.lengths), K), -9, dtype=torch.int32)
        records = Records(
            torch.full((POOL, DIM + 4), 255, dtype=torch.uint8), torch.zeros(POOL, dtype=torch.uint8),
            self.guard.clone(), torch.zeros(4, dtype=torch.int64),
        )  # fmt: skip
        form(
            self.q, self.w, self.index_k, self.table, self.lengths, records, N, K, judgement,
            **{"window": 1, "slots": False, **options}, budget_bytes=1 << 20, out=out,
        )  # fmt: skip
        return out, records

    def select(self, judgement: Judgement = NEVER, **options: Any) -> tuple[torch.Tensor, Records]:
        """What the kernels select and leave in the records, which is what the reference does."""
        out, records = self.run(select_decoded, judgement, **options)
        expected, expected_records = self.run(reference.select_decoded, judgement, **options)
        assert torch.equal(out, expected)
        assert torch.equal(records.has_summary, expected_records.has_summary)
        assert torch.equal(records.guard, expected_records.guard)
        assert torch.equal(records.counts, expected_records.counts)
        return out, records

    def exact(self) -> torch.Tensor:
        rows = torch.arange(len(self.lengths), dtype=torch.int32)
        longest = int(self.lengths.max())
        return score_select(self.q, self.w, self.index_k, self.table, rows, self.lengths, K, max_length=longest)

    def slots(self, positions: torch.Tensor) -> torch.Tensor:
        pages = self.table.gather(1, (positions.clamp(min=0) // PAGE).long())
        return torch.where(positions < 0, -1, pages * PAGE + positions % PAGE).int()


MIXED = [10 * PAGE + 3, 1, 30, 8 * PAGE, 7 * PAGE, 6 * PAGE + 1, 12 * PAGE + 64]


@pytest.mark.parametrize(("heads", "window"), [(5, 1), (16, 3)])
def test_equals_the_reference(heads: int, window: int) -> None:
    step = Step(MIXED, heads)
    positions, records = step.select(window=window)
    assert torch.equal(step.select(window=window, slots=True)[0], step.slots(positions))
    assert records.counts.eq(0).all()
    assert records.guard.eq(0).all()


def test_first_and_last_positions_are_forced() -> None:
    positions, _ = Step(MIXED).select(initial=3, local=5)
    assert positions[0, :3].tolist() == [0, 1, 2]
    assert positions[0, -5:].tolist() == list(range(MIXED[0] - 5, MIXED[0]))


def test_makes_the_summaries_of_complete_pages_alone() -> None:
    step = Step([5 * PAGE, 5 * PAGE + 1, 9 * PAGE + 5])
    shared = step.table[2, 0]
    step.table[1, 0] = shared  # two requests with one prefix
    _, records = step.select()
    made = {int(page) for row, complete in enumerate((4, 5, 9)) for page in step.table[row, :complete]}
    assert set(records.has_summary.nonzero()[:, 0].tolist()) == made
    page = int(shared)
    mean = step.index_k[page, : PAGE * DIM].view(torch.float8_e4m3fn).float().view(PAGE, DIM).mean(0)
    torch.testing.assert_close(
        unpack_summary(records.summaries[page]), unpack_summary(pack_summary(mean)), rtol=0.13, atol=1e-6
    )


def test_padding_selects_nothing() -> None:
    step = Step([9 * PAGE, 1, 1])
    step.lengths[1] = 0
    step.table[1:] = 0
    positions, records = step.select()
    assert positions[1].eq(-1).all()
    assert not records.has_summary[0]


def test_samples_are_judged_by_what_their_lists_hold() -> None:
    step = Step([9 * PAGE + row for row in range(1, 9)])
    sampled = int(is_sampled(step.lengths.long() - 1, 2).sum())
    assert 0 < sampled < len(step.lengths)
    positions, records = step.select(Judgement(every=2, need=1 << 20, floor=0.0))
    assert torch.equal(positions, step.select()[0])
    assert records.counts[0] == sampled
    assert 0 < records.counts[1] < sampled * K
    assert records.guard.sum(0).tolist() == [sampled * K, int(records.counts[1])]


@pytest.mark.parametrize("slots", [False, True])
def test_a_context_below_the_floor_is_scored_exactly(slots: bool) -> None:
    step = Step([9 * PAGE + 7, 10 * PAGE, 11 * PAGE, 5 * PAGE])
    step.table = torch.arange(1, 1 + 4 * 13, dtype=torch.int32).view(4, 13)  # no page belongs to two
    listed, _ = step.select(slots=slots)
    # Bad long ago, good of late; bad of late; too few samples; a context that lists everything.
    step.guard[step.table[0, 1]] = torch.tensor([10 * K, 0], dtype=torch.int32)
    step.guard[step.table[0, 7]] = torch.tensor([2 * K, 2 * K], dtype=torch.int32)
    step.guard[step.table[1, 1]] = torch.tensor([10 * K, 10 * K], dtype=torch.int32)
    step.guard[step.table[1, 8]] = torch.tensor([2 * K, K], dtype=torch.int32)
    step.guard[step.table[2, 8]] = torch.tensor([K, 0], dtype=torch.int32)
    step.guard[step.table[3, 2]] = torch.tensor([9 * K, 0], dtype=torch.int32)
    positions, records = step.select(Judgement(every=1 << 30, need=2 * K, floor=0.9), slots=slots)
    exact = step.slots(step.exact()) if slots else step.exact()
    assert not torch.equal(exact[1], listed[1])
    listed[1] = exact[1]
    assert torch.equal(positions, listed)
    assert records.counts.tolist() == [0, 0, 1, 10 * PAGE]


def test_other_layouts_are_refused() -> None:
    step = Step([9 * PAGE])
    step.table = step.table.repeat(2, 1)
    with pytest.raises(ValueError, match="a line for each"):
        step.run(select_decoded, NEVER)
    step = Step([9 * PAGE])
    step.index_k = step.index_k[:3]
    with pytest.raises(ValueError, match="summaries must be"):
        step.run(select_decoded, NEVER)
