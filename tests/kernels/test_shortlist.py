"""Two-level scores: the reference against the formula, the Triton kernels against the reference."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from sgl_indexcache.kernels.shortlist import (
    PAGE,
    choose_pages,
    listed_scores,
    pack_summary,
    page_scores,
    to_positions,
    unpack_summary,
)

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


def test_page_scores_are_those_of_the_stored_means() -> None:
    torch.manual_seed(0)
    q, w = torch.randn(3, HEADS, DIM), torch.randn(3, HEADS)
    summaries = pack_summary(torch.randn(9, DIM))
    table = torch.tensor([[8, 1, 3, 5], [0, 2, 4, 6]])
    found = page_scores(q, w, summaries, table, torch.tensor([1, 0, 1]), torch.tensor([4, 0, 2]))
    means = unpack_summary(summaries)
    torch.testing.assert_close(found[0].double(), formula(q[0], w[0], means[[0, 2, 4, 6]]), rtol=1e-5, atol=1e-5)
    assert found[1].isneginf().all()
    assert found[2, 2:].isneginf().all()


def test_listed_scores_are_those_of_the_listed_keys_up_to_the_row() -> None:
    torch.manual_seed(0)
    q, w = torch.randn(1, HEADS, DIM), torch.randn(1, HEADS)
    packed = pack_summary(torch.randn(6, PAGE, DIM))
    index_k = torch.cat((packed[..., :DIM].reshape(6, -1), packed[..., DIM:].reshape(6, -1)), 1)
    table, listed = torch.tensor([[5, 2, 4, 0]]), torch.tensor([[1, 3, -1]], dtype=torch.int32)
    length = 3 * PAGE + 7
    found = listed_scores(q, w, index_k, table, torch.tensor([0]), listed, torch.tensor([length]))[0]
    keys = unpack_summary(packed)
    expected = formula(q[0], w[0], torch.cat((keys[2], keys[0, :7])))
    torch.testing.assert_close(found[: PAGE + 7].double(), expected, rtol=1e-5, atol=1e-4)
    assert found[PAGE + 7 :].isneginf().all()


def test_forced_pages_come_first_and_ties_go_to_the_lower_page() -> None:
    scores = torch.tensor([[5.0, 1.0, 1.0, 4.0, 9.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    forced = torch.tensor([False, False, False, False, False, True]).expand(2, -1)
    assert choose_pages(scores, forced, torch.tensor([6, 6]), 4).tolist() == [[0, 3, 4, 5], [0, 1, 2, 5]]


def test_columns_become_positions() -> None:
    listed = torch.tensor([[1, 4], [0, 2]], dtype=torch.int32)
    picks = torch.tensor([[0, 63, 64, -1], [5, 127, -1, -1]], dtype=torch.int32)
    assert to_positions(picks, listed).tolist() == [[64, 127, 256, -1], [5, 191, -1, -1]]


def test_the_triton_kernels_equal_the_reference() -> None:
    """All cases of interpreted_shortlist.py."""
    cases = str(Path(__file__).with_name("interpreted_shortlist.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", cases],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
