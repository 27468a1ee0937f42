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

BLOCK = 4
LEAST_BLOCKS = 3
"""Blocks a selected position from which on the search goes by block maxima; with fewer it takes longer so."""


def select(scores: torch.Tensor, lengths: torch.Tensor, k: int) -> torch.Tensor:
    """Positions `[T, k]` int32 of the k best of `scores [T, S]` among the first `lengths [T]` of each row.

    Overwrites the invalid columns of `scores` with -inf. NaN or -inf in a valid column is not supported.
    """
    rows, width = scores.shape
    out = torch.full((rows, k), -1, dtype=torch.int32, device=scores.device)
    take = min(k, width)
    if rows == 0 or take == 0:
        return out
    columns = torch.arange(width, device=scores.device)
    # Columns that every row may see need no mask: in a prefill that is all but the last few.
    seen_by_all = int(lengths.min())
    scores[:, seen_by_all:].masked_fill_(columns[seen_by_all:] >= lengths.unsqueeze(1), float("-inf"))
    best, chosen = _top(scores, min(take + 1, width))
    if width > k:
        # topk breaks ties arbitrarily; it matters only where the k-th and the next score are equal.
        tied = (best[:, k - 1] == best[:, k]) & (lengths > k)
        for row in tied.nonzero().squeeze(1).tolist():
            above = (scores[row] > best[row, k - 1]).nonzero().squeeze(1)
            equal = (scores[row] == best[row, k - 1]).nonzero().squeeze(1)
            chosen[row, :k] = torch.cat([above, equal[: k - above.numel()]])
    chosen = chosen[:, :take].masked_fill(columns[:take] >= lengths.unsqueeze(1), width).sort(dim=1).values
    out[:, :take] = torch.where(chosen == width, -1, chosen).to(torch.int32)
    return out


def _top(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` best of every row of `scores [T, S]`, in descending order, and their columns; any of equals.

    The best of S columns lie in the `count` blocks with the largest maxima, of which there are S / BLOCK: two
    short searches and one pass for the maxima are cheaper than one long search. Blocks are strided, so that the
    maxima are taken over whole vectors; the last S % BLOCK columns are candidates in every row.
    """
    rows, width = scores.shape
    blocks = width // BLOCK
    if blocks < LEAST_BLOCKS * count:
        return scores.topk(count, dim=1)
    maxima = scores[:, : blocks * BLOCK].unflatten(1, (BLOCK, blocks)).amax(1)
    columns = torch.arange(width, device=scores.device)
    held = maxima.topk(count, dim=1, sorted=False).indices.unsqueeze(2) + columns[: blocks * BLOCK : blocks]
    rest = columns[blocks * BLOCK :].expand(rows, -1)
    candidates = torch.cat([held.view(rows, -1), rest], dim=1)
    best, place = scores.gather(1, candidates).topk(count, dim=1)
    return best, candidates.gather(1, place)
