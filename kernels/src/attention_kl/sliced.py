"""The loss over many queries without a matrix of all queries by all keys: a slice of queries at a time.

A slice's gradients are taken as soon as its loss is known and added up, so what stays in memory between forward and
backward is three tensors as large as the indexer's own. The most that a slice needs is, in elements,

    B * slice * S * (H + heads of attention)        in plain torch
    B * slice * S * H                               with the Triton kernel for the attention's side
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sgl_indexcache.kernels.attention_kl.reference import (
    attention_distribution,
    divergence,
    entropy,
    mass_on_best,
)
from sgl_indexcache.kernels.precision import wide
from sgl_indexcache.kernels.score_causal.reference import score_all


class Guess(NamedTuple):
    """An indexer's side. q [B, R, H, D], k [B, S, D], gates float [B, R, H]; the only inputs with a gradient."""

    q: torch.Tensor
    k: torch.Tensor
    gates: torch.Tensor


class Attention(NamedTuple):
    """One layer's side. q [B, h, R, d], k [B, h, S, d]; scale of their products."""

    q: torch.Tensor
    k: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True)
class _Job:
    """Everything without a gradient; see attention_kl."""

    layers: tuple[Attention, ...]
    visible: Callable[[int, int], torch.Tensor]
    weights: torch.Tensor
    topk: int | None
    rows: int
    distribution: Callable[..., torch.Tensor]


def attention_kl(
    guess: Guess,
    layers: Sequence[Attention],
    visible: Callable[[int, int], torch.Tensor],
    weights: torch.Tensor,
    *,
    topk: int | None = None,
    rows: int = 64,
    kernel: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL of an indexer to the mean attention of `layers` (one layer: to that layer's), weighted over queries.

    guess    the indexer's queries, keys and gates
    layers   attention of the layers; nothing flows back into them
    visible  (begin, end) -> bool [B, end - begin, S], what the queries begin..end may attend to
    weights  [B, R] of each query; the caller normalises them
    topk     also measure the attention's mass on the topk best scores; it costs a top-k a slice
    rows     queries of a slice
    kernel   take the attention's side from the Triton kernel

    Returns the loss, a number: sum over queries of weight * KL, in nats, whose gradient reaches `guess`; and figures
    [2], without gradient: the same sums of the attention's entropy, and of the mass (0 without topk).
    """
    distribution = attention_distribution
    if kernel:
        from sgl_indexcache.kernels.attention_kl import cuda

        distribution = cuda.attention_distribution
    job = _Job(tuple(layers), visible, weights, topk, rows, distribution)
    loss, figures = _Sliced.apply(*guess, job)  # type: ignore[no-untyped-call]
    return loss, figures


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor, job: _Job
    ) -> tuple[torch.Tensor, torch.Tensor]:
        learn = any(ctx.needs_input_grad[:3])
        total = wide(gates).new_zeros(())
        figures = total.new_zeros(2)
        grads = [torch.empty_like(q), torch.zeros_like(wide(k)), torch.empty_like(gates)] if learn else []
        for begin in range(0, q.shape[1], job.rows):
            end = min(q.shape[1], begin + job.rows)
            visible, weights = job.visible(begin, end), job.weights[:, begin:end]
            p = torch.stack([job.distribution(a.q[:, :, begin:end], a.k, visible, a.scale) for a in job.layers]).mean(0)
            inputs = [x.detach().requires_grad_(learn) for x in (q[:, begin:end], k, gates[:, begin:end])]
            with torch.set_grad_enabled(learn):
                scores = score_all(*inputs)
                loss = (divergence(p, scores, visible) * weights).sum()
            if learn:
                of_q, of_k, of_gates = torch.autograd.grad(loss, inputs)
                grads[0][:, begin:end], grads[2][:, begin:end] = of_q, of_gates
                grads[1] += of_k
            total += loss.detach()
            figures[0] += (entropy(p) * weights).sum()
            if job.topk is not None:
                figures[1] += (mass_on_best(p, scores.detach(), visible, job.topk) * weights).sum()
        if learn:
            ctx.save_for_backward(grads[0], grads[1].to(k.dtype), grads[2])
        ctx.mark_non_differentiable(figures)
        return total, figures

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return (*((grad * upstream[0]).to(grad.dtype) for grad in ctx.saved_tensors), None)
