"""Rows of a forward whose selections are known before it runs, and how firmly the others are decided."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class KnownRows:
    """What the index store knows of a Full layer's selections in a forward of T rows.

    selection  int32 [T, topk]  settled rows hold their selection, the others -1 until they are selected
    settled    bool [T]         rows that need no scores; cleared for those that were scored nevertheless
    watched    bool [T]         rows whose margin is to be measured
    margin     float32 [T]      by how much the last selected score lies above the best left out, relative to the
                                row's largest score; inf when nothing was left out, 0 where it was not measured
    """

    selection: torch.Tensor
    settled: torch.Tensor
    watched: torch.Tensor
    margin: torch.Tensor
