"""What an indexer learns from: the KL divergence from its layer's attention to its own distribution.

For a query t, p is the layer's attention summed over heads and normalised, q the softmax of the index scores;
the loss is KL(p || q) (DSA; the paper's distillation loss with one layer). Attention and scores of a whole
8,192-token sequence would be 67 M numbers a head, so the loss is taken on sampled queries: an unbiased
estimate over whichever queries are drawn, with all keys present.
"""

import torch

from sgl_indexcache.distill.indexing import visible
from sgl_indexcache.kernels.attention_kl import attention_distribution, divergence, entropy, mass_on_best


def row_share(answers: torch.Tensor) -> torch.Tensor:
    """How likely each query is drawn, float32 [B, T]: see sample_rows."""
    marked = answers.float()
    return 1.0 + marked * (answers.shape[1] / marked.sum(1, keepdim=True).clamp(min=1))


def sample_rows(
    answers: torch.Tensor, count: int, generator: torch.Generator, only_answers: bool = False
) -> torch.Tensor:
    """Positions int64 [B, R] of queries to learn from, drawn with replacement.

    About half of them are queries that predict a byte of an answer (bool [B, T]), if the row has any: these
    need context from far back, and are a thousandth of all. With `only_answers` all are such queries.
    """
    share = answers.float() if only_answers else row_share(answers)
    return torch.multinomial(share, count, replacement=True, generator=generator)


def row_divergence(
    scores: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor | None,
    topk: int,
) -> torch.Tensor:
    """Means over the sampled queries, float32 [3]: KL(p || q), entropy of p, and mass of p on the top k.

    scores  index scores float32 [B, R, T] before masking; the only input with a gradient
    q, k    attention's queries and keys [B, heads, T, D]
    rows    int64 [B, R] the queries' positions
    bias    the selection [B, 1, T, T]; both distributions are then restricted to it (the sparse stage)
    topk    size of a selection, for the mass that the indexer's own top k holds
    """
    length = k.shape[2]
    keys = visible(rows, None, length)
    if bias is not None:
        keys = keys & (bias[:, 0].gather(1, rows[..., None].expand(-1, -1, length)) == 0)
    with torch.no_grad():
        queries = q.gather(2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))
        target = attention_distribution(queries, k, keys, q.shape[-1] ** -0.5)
    kl = divergence(target, scores, keys)
    with torch.no_grad():
        mass = mass_on_best(target, scores, keys, topk)
    return torch.stack((kl.mean(), entropy(target).mean(), mass.mean()))
