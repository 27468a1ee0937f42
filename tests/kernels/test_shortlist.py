"""Two-level scores: the reference against the formula, the Triton kernels against the reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgl_indexcache.kernels.shortlist import (
    PAGE,
    choose_pages,
    pack_summary,
    to_positions,
    unpack_summary,
)
from sgl_indexcache.kernels.shortlist.reference import list_pages, select_listed

HEADS, DIM = 3, 32


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


def test_a_list_holds_the_first_page_the_window_and_the_best() -> None:
    torch.manual_seed(0)
    q, w, means = torch.randn(2, HEADS, DIM), torch.rand(2, HEADS), torch.randn(12, DIM)
    complete = torch.tensor([12, 9])
    found = list_pages(q, w, means, complete, 6, window=2)
    for row, count in enumerate(complete.tolist()):
        forced = {0, count - 2, count - 1}
        scores = formula(q[row], w[row], means[:count]).tolist()
        rest = sorted(set(range(count)) - forced, key=lambda page: -scores[page])
        assert found[row].tolist() == sorted(forced | set(rest[:3]))


def test_the_best_of_the_listed_keys_up_to_the_row_are_selected() -> None:
    torch.manual_seed(0)
    position = 3 * PAGE + 7
    q, w, keys = torch.randn(1, HEADS, DIM), torch.rand(1, HEADS), torch.randn(position + 1, DIM)
    listed = torch.tensor([[1, 3]], dtype=torch.int32)
    found = select_listed(q, w, keys, listed, torch.tensor([position]), 20)[0]
    scores = formula(q[0], w[0], keys)
    there = [*range(PAGE, 2 * PAGE), *range(3 * PAGE, position + 1)]
    assert found.tolist() == sorted(sorted(there, key=lambda at: -float(scores[at]))[:20])


def test_forced_pages_come_first_and_ties_go_to_the_lower_page() -> None:
    scores = torch.tensor([[5.0, 1.0, 1.0, 4.0, 9.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    forced = torch.tensor([False, False, False, False, False, True]).expand(2, -1)
    assert choose_pages(scores, forced, torch.tensor([6, 6]), 4).tolist() == [[0, 3, 4, 5], [0, 1, 2, 5]]


def test_columns_become_positions() -> None:
    listed = torch.tensor([[1, 4], [0, 2]], dtype=torch.int32)
    picks = torch.tensor([[0, 63, 64, -1], [5, 127, -1, -1]], dtype=torch.int32)
    assert to_positions(picks, listed).tolist() == [[64, 127, 256, -1], [5, 191, -1, -1]]


@pytest.mark.parametrize("cases", ["interpreted_shortlist.py", "interpreted_decode.py", "interpreted_guard.py"])
def test_the_triton_kernels_equal_the_reference(cases: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__).with_name(cases))],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
