"""What an indexer learns from: the KL divergence from its layer's attention to its own distribution.

For a query t, p is the layer's attention summed over heads and normalised, q the softmax of the index scores;
the loss is KL(p || q) (DSA; the paper's distillation loss with one layer). Attention and scores of a whole
8,192-token sequence would be 67 M numbers a head, so the loss is taken on sampled queries: an unbiased
estimate over whichever queries are drawn, with all keys present.
"""

import torch


def sample_rows(
    answers: torch.Tensor, count: int, generator: torch.Generator, only_answers: bool = False
) -> torch.Tensor:
    """Positions int64 [B, R] of queries to learn from, drawn with replacement.

    About half of them are queries that predict a byte of an answer (bool [B, T]), if the row has any: these
    need context from far back, and are a thousandth of all. With `only_answers` all are such queries.
    """
    length = answers.shape[1]
    marked = answers.float()
    if only_answers:
        return torch.multinomial(marked, count, replacement=True, generator=generator)
    share = 1.0 + marked * (length / marked.sum(1, keepdim=True).clamp(min=1))
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

    Args:
        scores: index scores float32 [B, R, T] before masking; the only input with a gradient.
        q, k: attention's queries and keys [B, heads, T, D].
        rows: int64 [B, R] the queries' positions.
        bias: the selection [B, 1, T, T]; both distributions are then restricted to it (the sparse stage).
        topk: size of a selection, for the mass that the indexer's own top k holds.
    """
    length = k.shape[2]
    hidden = torch.arange(length, device=k.device) > rows[..., None]
    if bias is not None:
        hidden = hidden | (bias[:, 0].gather(1, rows[..., None].expand(-1, -1, length)) < 0)
    with torch.no_grad():
        some = q.gather(2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))
        logits = torch.matmul(some, k.mT).float() * q.shape[-1] ** -0.5
        target = logits.masked_fill(hidden[:, None], float("-inf")).softmax(-1).mean(1)
        entropy = -(target * target.clamp(min=1e-30).log()).sum(-1)
    masked = scores.masked_fill(hidden, float("-inf"))
    guess = masked.log_softmax(-1).masked_fill(hidden, 0.0)
    divergence = -(target * guess).sum(-1) - entropy
    with torch.no_grad():
        chosen = masked.topk(min(topk, length), dim=-1, sorted=False).indices
        mass = target.gather(-1, chosen).sum(-1)
    return torch.stack((divergence.mean(), entropy.mean(), mass.mean()))
