"""Two-level scoring: the reference against the formula, the Triton kernels against the reference."""

from collections.abc import Callable

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE, pack, unpack
from sgl_indexcache.kernels.shortlist import (
    Judgement,
    Records,
    choose_pages,
    cuda,
    is_sampled,
    pack_summary,
    reference,
    to_positions,
    unpack_summary,
)

HEADS, DIM, POOL = 3, 32, 20
NEVER = Judgement(1 << 30, 1, 0.0)


def formula(q: torch.Tensor, w: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Scores float64 [S] of one row against keys [S, D]."""
    return (w.double()[:, None] * (q.double() @ k.double().T).clamp(min=0)).sum(0)


def test_a_summary_keeps_its_values_to_half_an_fp8_step() -> None:
    mean = torch.randn(7, DIM) * torch.logspace(-6, 6, 7).unsqueeze(1)
    packed = pack_summary(mean)
    assert packed.shape == (7, DIM + 4)
    assert packed.dtype == torch.uint8
    error = (unpack_summary(packed) - mean).abs()
    assert (error <= (mean.abs() / 16).maximum(mean.abs().amax(1, keepdim=True) / 448)).all()


def test_a_summary_of_nothing_is_nothing() -> None:
    assert unpack_summary(pack_summary(torch.zeros(2, DIM))).eq(0).all()


@pytest.mark.parametrize("plain", [True, False])
def test_missing_summaries_are_made_of_either_layout_and_packed_as_keys_are(plain: bool) -> None:
    torch.manual_seed(0)
    keys = torch.randn(POOL, PAGE, DIM).to(torch.float8_e4m3fn)
    index_k = keys.float() if plain else pack(keys, torch.ones(POOL, PAGE))
    table = torch.tensor([7, 3, 11, 0])
    summaries, has_summary = torch.zeros(POOL, DIM + 4, dtype=torch.uint8), torch.zeros(POOL, dtype=torch.uint8)
    known = pack_summary(torch.randn(DIM))
    summaries[3], has_summary[3] = known, 1
    packed = reference.summarise(index_k, table, summaries, has_summary, 3)
    assert has_summary.nonzero()[:, 0].tolist() == [3, 7, 11]
    assert torch.equal(summaries[3], known)
    made = pack_summary(keys[[7, 11]].float().mean(1))
    expected = unpack_summary(torch.stack((made[0], known, made[1])))
    assert torch.equal(unpack(packed, torch.arange(1))[:3].float(), expected)


def lists_of(
    q: torch.Tensor, w: torch.Tensor, means: torch.Tensor, complete: list[int], n: int, window: int
) -> list[list[int]]:
    """What reference.list_pages lists."""
    packed = pack(*quantised(means))
    out = torch.empty(len(complete), n, dtype=torch.int32)
    reference.list_pages(
        q, w, packed, torch.tensor(complete), n, max_complete=len(means), window=window, budget_bytes=0, out=out
    )
    return out.tolist()


def quantised(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole pages of fp8 keys with a scale of one each."""
    keys = torch.nn.functional.pad(keys, (0, 0, 0, -len(keys) % PAGE)).view(-1, PAGE, keys.shape[1])
    return keys.to(torch.float8_e4m3fn), torch.ones(keys.shape[:2])


def test_a_list_holds_the_first_page_the_window_and_the_best() -> None:
    torch.manual_seed(0)
    q, w, means = torch.randn(2, HEADS, DIM), torch.rand(2, HEADS), torch.randn(12, DIM)
    means = means.to(torch.float8_e4m3fn).float()
    complete = [12, 9]
    for row, pages in enumerate(lists_of(q, w, means, complete, 6, window=2)):
        count = complete[row]
        forced = {0, count - 2, count - 1}
        scores = formula(q[row], w[row], means[:count]).tolist()
        rest = sorted(set(range(count)) - forced, key=lambda page: -scores[page])
        assert pages == sorted(forced | set(rest[:3]))


@pytest.mark.parametrize("slots", [False, True])
def test_the_best_of_the_listed_keys_up_to_the_row_are_selected(slots: bool) -> None:
    torch.manual_seed(0)
    position = 3 * PAGE + 7
    q, w = torch.randn(2, HEADS, DIM), torch.rand(2, HEADS)
    keys = torch.randn(POOL, PAGE, DIM)
    table, names = torch.tensor([8, 2, 5, 11]), torch.tensor([[1, 3], [0, 3]])
    pages = table[names]
    out = torch.empty(2, 20, dtype=torch.int32)
    reference.select_listed(
        q, w, keys, pages, torch.tensor([0, 1]), torch.tensor([PAGE + 8, PAGE + 8]), 20,
        names=pages if slots else names, initial=1, local=2, budget_bytes=0, out=out,
    )  # fmt: skip
    for row, first in enumerate((PAGE, 0)):
        scores = formula(q[row], w[row], keys[table].flatten(0, 1))
        scores[[first, position - 1, position]] = float("inf")
        listed_positions = [*range(first, first + PAGE), *range(3 * PAGE, position + 1)]
        expected = sorted(sorted(listed_positions, key=lambda at: -float(scores[at]))[:20])
        if slots:
            expected = [int(table[at // PAGE]) * PAGE + at % PAGE for at in expected]
        assert out[row].tolist() == expected


def test_forced_pages_come_first_and_ties_go_to_the_lower_page() -> None:
    scores = torch.tensor([[5.0, 1.0, 1.0, 4.0, 9.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    forced = torch.tensor([False, False, False, False, False, True]).expand(2, -1)
    assert choose_pages(scores, forced, torch.tensor([6, 6]), 4).tolist() == [[0, 3, 4, 5], [0, 1, 2, 5]]


def test_columns_become_positions() -> None:
    pages = torch.tensor([[1, 4], [0, 2]], dtype=torch.int32)
    picks = torch.tensor([[0, 63, 64, -1], [5, 127, -1, -1]], dtype=torch.int32)
    assert to_positions(picks, pages).tolist() == [[64, 127, 256, -1], [5, 191, -1, -1]]


def test_one_row_in_so_many_is_a_sample() -> None:
    positions = torch.arange(1 << 16)
    for every in (1, 2, 64, 1000):
        share = is_sampled(positions, every).double().mean()
        assert abs(float(share) * every - 1) < 0.05


class Step:
    """A decode step of three requests of 9 complete pages and some keys in each its own pages, and one of padding."""

    k, n = 40, 4

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.keys = torch.randint(-3, 4, (4 * 10, PAGE, DIM)).float()
        self.q, self.w = torch.randint(-3, 4, (4, HEADS, DIM)).float(), torch.rand(4, HEADS)
        self.table = torch.arange(40, dtype=torch.int32).view(4, 10).flip(1)
        self.lengths = torch.tensor([9 * PAGE + 5, 9 * PAGE + 6, 3 * PAGE, 0], dtype=torch.int32)
        self.records = Records(
            torch.zeros(40, DIM + 4, dtype=torch.uint8), torch.zeros(40, dtype=torch.uint8),
            torch.zeros(40, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int64),
        )  # fmt: skip

    def select(self, judgement: Judgement) -> torch.Tensor:
        out = torch.empty(4, self.k, dtype=torch.int32)
        reference.select_decoded(
            self.q, self.w, self.keys, self.table, self.lengths, self.records, self.n, self.k, judgement,
            window=1, slots=False, budget_bytes=0, out=out,
        )  # fmt: skip
        return out

    def of_row(self, row: int) -> tuple[torch.Tensor, list[int]]:
        """Scores of all keys that the row sees, and the pages that it lists."""
        keys = self.keys[self.table[row].long()].flatten(0, 1)[: int(self.lengths[row])]
        complete = (len(keys) - 1) // PAGE
        means = unpack_summary(pack_summary(keys[: complete * PAGE].view(complete, PAGE, DIM).mean(1)))
        page_scores = formula(self.q[row], self.w[row], means)
        page_scores[[0, complete - 1]] = float("inf")
        best = sorted(range(complete), key=lambda page: (-float(page_scores[page]), page))[: self.n]
        return formula(self.q[row], self.w[row], keys), [*sorted(best), complete]

    def best(self, row: int, lists: list[int] | None = None) -> list[int]:
        """The row's selection among all keys, or those of some pages."""
        scores, _ = self.of_row(row)
        positions = [s for s in range(len(scores)) if lists is None or s // PAGE in lists]
        return sorted(sorted(positions, key=lambda s: (-float(scores[s]), s))[: self.k])


def test_a_decoded_row_selects_among_its_list() -> None:
    step = Step()
    out = step.select(NEVER)
    for row in range(3):
        assert out[row].tolist() == step.best(row, step.of_row(row)[1])
    assert out[3].eq(-1).all()
    assert step.records.counts.eq(0).all()


def test_a_sample_is_counted_with_its_own_page_and_a_fallen_context_selected_exactly() -> None:
    step = Step()
    bad = step.table[0, 7]
    step.records.guard[bad] = torch.tensor([100, 10], dtype=torch.int32)
    out = step.select(Judgement(1, 100, 0.5))
    assert out[0].tolist() == step.best(0)
    assert out[1].tolist() == step.best(1, step.of_row(1)[1])
    held = [sum(s // PAGE in step.of_row(row)[1] for s in step.best(row)) for row in (0, 1)]
    assert held[0] < step.k
    for row in (0, 1):
        assert step.records.guard[step.table[row, 9]].tolist() == [step.k, held[row]]
    # The third request lists all of its pages: nothing is asked of it.
    assert step.records.guard.sum(0).tolist() == [100 + 2 * step.k, 10 + sum(held)]
    assert step.records.counts.tolist() == [2, sum(held), 1, 9 * PAGE + 5]


def test_judge_counts_what_lists_hold() -> None:
    exact = torch.tensor([[0, 65, 130, -1], [3, 200, 201, 202]], dtype=torch.int32)
    lists = torch.tensor([[0, 2], [3, 4], [0, 3]], dtype=torch.int32)
    guard, counts = torch.zeros(9, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int64)
    table, lengths = torch.tensor([5, 6, 7, 8], dtype=torch.int32), torch.tensor([131, 203], dtype=torch.int32)
    reference.judge(exact, lists, torch.tensor([0, 1]), table, lengths, guard, counts, counted=True)
    assert guard.tolist() == [[0, 0]] * 7 + [[4, 2], [4, 3]]
    assert counts.tolist() == [2, 5, 0, 0]
    reference.judge(exact, lists, torch.tensor([2, 2]), table, lengths, guard, counts, counted=False)
    assert counts.tolist() == [2, 5, 0, 0]


def test_verdicts_go_by_the_latest_pages_that_suffice() -> None:
    guard = torch.zeros(1, 2000, 2, dtype=torch.int32)
    guard[0, 2:6] = torch.tensor([[10, 0], [10, 10], [0, 0], [10, 9]])
    table, out = torch.arange(2000, dtype=torch.int32)[None], torch.empty(1, 4, dtype=torch.int64)
    # Before page 6: 9 of 10, 19 of 20, 19 of 30; before page 3: 0 of 10; before page 2: none; at 1,500: too long ago.
    for need, expected in ((10, [0, 1, 0, 0]), (20, [0, 0, 0, 0]), (30, [1, 0, 0, 0])):
        reference.verdicts(guard, table, torch.zeros(4).int(), torch.tensor([6, 3, 2, 1500]), need, 0.9, out)
        assert out[0].tolist() == expected


def test_the_forms_offer_the_same_names_with_the_same_arguments() -> None:
    from inspect import signature

    for name in cuda.__all__:
        assert signature(getattr(cuda, name)) == signature(getattr(reference, name))


@pytest.mark.parametrize("cases", ["shortlist.py", "shortlist_decode.py", "shortlist_guard.py"])
def test_the_triton_kernels_equal_the_reference(cases: str, interpret: Callable[[str], None]) -> None:
    interpret(cases)
