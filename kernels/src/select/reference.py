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
    """Positions `[T, k]` int32 of the k best of `scores [T, S]` among the first `lengths [T]` of each row.

    NaN scores are not supported: a NaN in a valid column makes the row's selection undefined.
    """
    rows, width = scores.shape
    out = torch.full((rows, k), -1, dtype=torch.int32, device=scores.device)
    take = min(k, width)
    if rows == 0 or take == 0:
        return out
    columns = torch.arange(width, device=scores.device)
    valid = columns < lengths.unsqueeze(1)
    masked = scores.masked_fill(~valid, float("-inf"))
    best, chosen = masked.topk(take, dim=1, sorted=True)
    count = lengths.clamp(max=take)
    # The k-th best score of a row; topk breaks ties at it arbitrarily, and those rows are mended below.
    last = best.gather(1, (count - 1).clamp(min=0).unsqueeze(1))
    tied_inside = ((best == last) & (torch.arange(take, device=scores.device) < count.unsqueeze(1))).sum(1)
    tied = ((masked == last) & valid).sum(1)
    for row in (tied > tied_inside).nonzero().squeeze(1).tolist():
        threshold = last[row]
        above = (masked[row] > threshold).nonzero().squeeze(1)
        equal = ((masked[row] == threshold) & valid[row]).nonzero().squeeze(1)
        need = int(count[row]) - above.numel()
        chosen[row, : int(count[row])] = torch.cat([above, equal[:need]])
    order = torch.arange(take, device=scores.device)
    chosen = chosen.masked_fill(order >= count.unsqueeze(1), width).sort(dim=1).values
    out[:, :take] = torch.where(chosen == width, -1, chosen).to(torch.int32)
    return out
