"""Selection of the k best keys of every query, deterministic under ties.

    scores   [T, S]  float; row t is valid in its first lengths[t] columns, the rest is never read as a score
    lengths  [T]     int, 0 <= lengths[t] <= S
    out      [T, k]  int32 positions in ascending order, -1 padded at the end

The selected set holds the first min(k, lengths[t]) positions in the order (score descending, position
ascending): of equal scores at the boundary the lower position wins. Exact zeros are common, since the score
is a sum of rectified products, so repeats, tensor-parallel ranks and cached runs agree only with such a rule.
Written in ascending position, equal sets are equal tensors.
"""

import torch


def select(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
    """Positions int32 `[T, k]` of the k best of `scores [T, S]` among the first `lengths [T]` of each row.

    NaN or -inf in a valid column is not supported.
    """
    rows, width = scores.shape
    lengths = lengths.unsqueeze(1)
    rank = torch.arange(width, device=scores.device)
    valid = scores.masked_fill(rank >= lengths, float("-inf"))
    order = valid.sort(dim=1, descending=True, stable=True).indices[:, :k]
    # Ranks beyond a row's keys sort behind all positions, and are no positions.
    best = order.masked_fill(rank[:k] >= lengths, width).sort(dim=1).values
    out = torch.full((rows, k), -1, dtype=torch.int32, device=scores.device)
    out[:, : best.shape[1]] = best.masked_fill(best == width, -1)
    return out
