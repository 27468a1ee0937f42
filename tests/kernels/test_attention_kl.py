"""The distillation loss: formulae by hand, Proposition 1, slices, and the Triton kernel under its interpreter."""

from collections.abc import Callable

import pytest
import torch

from sgl_indexcache.kernels.attention_kl import (
    Attention,
    Guess,
    attention_distribution,
    attention_kl,
    divergence,
    divergence_to_mean,
    mean_of_divergences,
)


def some(rows: int = 7, keys: int = 11, layers: int = 3, seed: int = 0) -> tuple[list[Attention], Guess, torch.Tensor]:
    """Attention of some layers, an indexer's side and what is seen, all in float64."""
    torch.manual_seed(seed)
    wide = {"dtype": torch.float64}
    attention: list[Attention] = []
    for _ in range(layers):
        attention.append(Attention(torch.randn(2, 4, rows, 6, **wide), torch.randn(2, 4, keys, 6, **wide), 0.4))
    guess = Guess(
        torch.randn(2, rows, 3, 5, **wide, requires_grad=True),
        torch.randn(2, keys, 5, **wide, requires_grad=True),
        torch.randn(2, rows, 3, **wide, requires_grad=True),
    )
    seen = torch.rand(2, rows, keys) < 0.6
    seen[..., 0] = True
    return attention, guess, seen


def scores(guess: Guess) -> torch.Tensor:
    return (torch.einsum("brhd,bsd->brhs", guess.q, guess.k).relu() * guess.gates[..., None]).sum(2)


def distributions(attention: list[Attention], seen: torch.Tensor) -> list[torch.Tensor]:
    return [attention_distribution(a.q, a.k, seen, a.scale) for a in attention]


def test_by_hand() -> None:
    attention, guess, seen = some()
    p = distributions(attention, seen)[0]
    found = divergence(p, scores(guess), seen)
    for b, r in ((0, 0), (1, 6), (1, 3)):
        keys = seen[b, r].nonzero()[:, 0]
        by_head = []
        for h in range(4):
            logits = 0.4 * (attention[0].q[b, h, r] @ attention[0].k[b, h, keys].T)
            by_head.append(logits.exp() / logits.exp().sum())
        wanted = torch.stack(by_head).sum(0)
        wanted = wanted / wanted.sum()
        torch.testing.assert_close(p[b, r, keys], wanted)
        mine = scores(guess)[b, r, keys]
        q = mine.exp() / mine.exp().sum()
        torch.testing.assert_close(found[b, r], (wanted * (wanted / q).log()).sum())
    assert not p[~seen].any()


def test_proposition_1() -> None:
    """Both forms have the same gradient, and differ in value."""
    attention, guess, seen = some(layers=4)
    served = distributions(attention, seen)
    sums = mean_of_divergences(served, scores(guess), seen).mean()
    mean = divergence_to_mean(served, scores(guess), seen).mean()
    assert sums > mean + 1e-3
    for one, other in zip(torch.autograd.grad(sums, guess), torch.autograd.grad(mean, guess), strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
@pytest.mark.parametrize("layers", [1, 3])
def test_slices_are_the_whole(rows: int, layers: int) -> None:
    attention, guess, seen = some(layers=layers)
    weights = torch.rand(2, 7, dtype=torch.float64)
    served = distributions(attention, seen)
    wanted = (divergence_to_mean(served, scores(guess), seen) * weights).sum()
    found, figures = attention_kl(guess, attention, lambda b, e: seen[:, b:e], weights, topk=4, rows=rows)
    torch.testing.assert_close(found, wanted)
    p = torch.stack(served).mean(0)
    best = scores(guess).masked_fill(~seen, float("-inf")).topk(4, -1).indices
    torch.testing.assert_close(figures[1], (p.gather(-1, best).sum(-1) * weights).sum())
    torch.testing.assert_close(figures[0], -(torch.special.xlogy(p, p).sum(-1) * weights).sum())
    for one, other in zip(torch.autograd.grad(3 * found, guess), torch.autograd.grad(3 * wanted, guess), strict=True):
        torch.testing.assert_close(one, other)


def test_no_gradient_is_taken_where_none_is_wanted() -> None:
    attention, guess, seen = some()
    with torch.no_grad():
        found, _ = attention_kl(guess, attention, lambda b, e: seen[:, b:e], torch.ones(2, 7))
    assert not found.requires_grad


def test_the_kernel_equals_the_reference(interpret: Callable[[str], None]) -> None:
    interpret("attention_kl.py")
