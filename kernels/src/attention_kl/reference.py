"""The multi-layer distillation loss, the formulae (IndexCache paper, training-aware section; Proposition 1).

For a query t of a Full layer l that serves the layers l..l+m:

    p_j[t, s] = 1/h sum_heads softmax_s(scale q_j[t] . k_j[s])      attention of layer l+j, over what t sees
    q[t, s]   = softmax_s(I[t, s])                                  the indexer's distribution, over the same
    sum form:   1/(m+1) sum_j KL(p_j || q)
    mean form:  KL(p_bar || q),  p_bar = 1/(m+1) sum_j p_j

The two differ by what does not depend on q (the mean of the entropies against the entropy of the mean), so their
gradients for the indexer are the same.

    q, k     [B, h, R, d], [B, h, S, d]   queries and keys of one layer's attention
    scores   [B, R, S]                    index scores I; what is not visible is masked here
    visible  bool [B, R, S]               what each query may attend to; at least one key each
    results  in float64 if an input is float64, else in float32
"""

from collections.abc import Sequence

import torch

from sgl_indexcache.kernels.precision import wide

TINY = 1e-30
"""Below every probability that float32 holds with full precision; keeps 0 log 0 at 0."""


def attention_distribution(q: torch.Tensor, k: torch.Tensor, visible: torch.Tensor, scale: float) -> torch.Tensor:
    """p [B, R, S]: attention summed over heads and normalised; zero at keys that are not visible."""
    logits = wide(torch.matmul(q, k.mT)) * scale
    return logits.masked_fill(~visible[:, None], float("-inf")).softmax(-1).mean(1)


def entropy(p: torch.Tensor) -> torch.Tensor:
    """Entropy [B, R] of distributions [B, R, S], in nats."""
    return -(p * p.clamp(min=TINY).log()).sum(-1)


def divergence(p: torch.Tensor, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """KL(p || softmax(scores over visible)) [B, R], in nats; the gradient reaches the scores."""
    guess = wide(scores).masked_fill(~visible, float("-inf")).log_softmax(-1).masked_fill(~visible, 0.0)
    return -(p * guess).sum(-1) - entropy(p)


def mass_on_best(p: torch.Tensor, scores: torch.Tensor, visible: torch.Tensor, topk: int) -> torch.Tensor:
    """Share [B, R] of p on the topk positions that score best among those visible."""
    masked = scores.masked_fill(~visible, float("-inf"))
    return p.gather(-1, masked.topk(min(topk, p.shape[-1]), dim=-1, sorted=False).indices).sum(-1)


def mean_of_divergences(layers: Sequence[torch.Tensor], scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The sum form [B, R] over the distributions of all served layers."""
    return torch.stack([divergence(p, scores, visible) for p in layers]).mean(0)


def divergence_to_mean(layers: Sequence[torch.Tensor], scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The mean form [B, R] over the distributions of all served layers."""
    return divergence(torch.stack(list(layers)).mean(0), scores, visible)
