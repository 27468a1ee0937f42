"""Selection on the CPU in the order of reference.py: by block maxima with many threads, by NumPy's partition with few.

Chosen by bench cpu-prefill (docs/results/cpu-prefill.md).
"""

import numpy as np
import torch

BLOCK = 4
"""Columns whose maximum is kept."""
MIN_BLOCKS = 3
"""Blocks a selected position from which on block maxima narrow the search; with fewer it takes longer so."""
FEW_THREADS = 2
"""Up to so many threads of torch, one thread of NumPy is faster: it takes a third of one thread of torch's time."""
SCORES_AT_ONCE = 1 << 19
"""NumPy partitions a copy: of so many scores at a time, which stay in the cache."""


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
    shortest = int(lengths.min())
    scores[:, shortest:].masked_fill_(columns[shortest:] >= lengths.unsqueeze(1), float("-inf"))
    if width > k and scores.device.type == "cpu" and torch.get_num_threads() <= FEW_THREADS:
        step = max(1, SCORES_AT_ONCE // width)
        for into, part, length in zip(*(torch.split(t, step) for t in (out, scores, lengths)), strict=True):
            chosen = _by_threshold(part, k)
            into.copy_(torch.where(chosen < length.unsqueeze(1), chosen, -1))
        return out
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


def _by_threshold(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Columns int64 `[T, k]`, ascending, of the k best of every row of `scores [T, S]` on the CPU, k < S.

    All that lie above the best score left out are selected, and of those equal to it the first ones. NumPy partitions
    with vector instructions, where torch partitions pairs of score and column one by one.
    """
    values = scores.numpy()
    rows, width = values.shape
    threshold = np.partition(values, width - k - 1, axis=1)[:, width - k - 1, None]
    picked = values > threshold
    places = np.flatnonzero(picked)
    if places.size < rows * k:
        above = np.count_nonzero(picked, axis=1, keepdims=True)
        tied = np.flatnonzero(above < k)
        equal = values[tied] == threshold[tied]
        picked[tied] |= equal & (equal.cumsum(axis=1, dtype=np.int32) <= k - above[tied])
        places = np.flatnonzero(picked)
    return torch.from_numpy(places.reshape(rows, k) - np.arange(0, rows * width, width)[:, None])


def _top(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` best of every row of `scores [T, S]`, in descending order, and their columns; any of equals.

    The best of S columns lie in the `count` blocks with the largest maxima, of which there are S / BLOCK: two
    short searches and one pass for the maxima are cheaper than one long search. Blocks are strided, so that the
    maxima are taken over whole vectors; the last S % BLOCK columns are candidates in every row.
    """
    rows, width = scores.shape
    blocks = width // BLOCK
    if blocks < MIN_BLOCKS * count:
        return scores.topk(count, dim=1)
    maxima = scores[:, : blocks * BLOCK].view(rows, BLOCK, blocks).amax(1)
    columns = torch.arange(width, device=scores.device)
    held = maxima.topk(count, dim=1, sorted=False).indices.unsqueeze(2) + columns[: blocks * BLOCK : blocks]
    rest = columns[blocks * BLOCK :].expand(rows, -1)
    candidates = torch.cat([held.view(rows, -1), rest], dim=1)
    best, place = scores.gather(1, candidates).topk(count, dim=1)
    return best, candidates.gather(1, place)
