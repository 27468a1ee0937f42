"""Selection by sorting, for what no kernel takes: any k, rows that begin anywhere, the order of the scores kept."""

import torch

SORTED_ELEMENTS = 1 << 24
"""Scores sorted at a time: a sort needs about 20 bytes of scratch for each, so 320 MiB, whatever the batch."""


def select_sorted(
    scores: torch.Tensor, lengths: torch.Tensor, k: int, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """Positions int32 `[T, k]` of the k best of `scores [T, S]` in columns starts to starts + lengths of each row.

    lengths     int [T]; starts int [T], None for 0
    positions   from the row's start, best first, -1 padded; of equal scores the lower position wins

    Never waits for the device, so that it may stand between captured graphs.
    """
    rows, width = scores.shape
    out = scores.new_full((rows, k), -1, dtype=torch.int32)
    begin = lengths.new_zeros(rows) if starts is None else starts
    columns = torch.arange(width, device=scores.device, dtype=torch.int32)
    take = min(k, width)
    step = max(1, SORTED_ELEMENTS // max(1, width))
    for first in range(0, rows, step):
        part = slice(first, min(rows, first + step))
        low = begin[part].unsqueeze(1)
        outside = (columns < low) | (columns >= low + lengths[part].unsqueeze(1))
        order = scores[part].masked_fill(outside, float("-inf")).sort(dim=1, descending=True, stable=True).indices
        picks = order[:, :take].to(torch.int32) - low
        filled = torch.arange(take, device=scores.device) < lengths[part].unsqueeze(1)
        out[part, :take] = torch.where(filled, picks, -1)
    return out
