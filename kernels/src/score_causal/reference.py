"""Index scores of a batch of sequences, every query against the keys up to its own position.

    I[b, r, s] = sum_h  w[b, r, h] * relu( q[b, r, h] . k[b, s] )      for s <= first + r, else -inf

    q      [B, R, H, D]  index queries at positions first, first + 1, ...
    k      [B, S, D]     index keys at positions 0, 1, ...; in q's dtype
    gates  [B, R, H]     head gates, float, all constants folded in
    I      [B, R, S]     float32, or float64 if an input is

Products are taken in the inputs' dtype, as training does, and widened before they are summed over heads. They need
B * R * H * S elements of memory. Gradients flow to all inputs.
"""

import torch

from sgl_indexcache.kernels.precision import wide


def weigh(products: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Scores `[B, R, S]`: rectified products `[B, R * H, S]` summed over heads by gates `[B, R, H]`."""
    rectified = wide(products.view(*gates.shape, products.shape[-1])).relu()
    return (rectified * wide(gates).unsqueeze(-1)).sum(2)


def score_all(q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Scores `[B, R, S]` of all keys, later ones too."""
    return weigh(torch.matmul(q.flatten(1, 2), k.mT), gates)


def score_causal(q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor, first: int) -> torch.Tensor:
    """Scores `[B, R, S]`; keys after position first + r of query r score -inf."""
    position = torch.arange(first, first + q.shape[1], device=q.device)
    later = torch.arange(k.shape[1], device=q.device) > position.unsqueeze(1)
    return score_all(q, k, gates).masked_fill(later, float("-inf"))
