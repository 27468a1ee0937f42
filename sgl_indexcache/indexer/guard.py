"""The recall guard of two-level scoring: which rows are scored both ways, and what recall a context must reach."""

from dataclasses import dataclass

import torch

from sgl_indexcache.kernels.shortlist import is_sampled

SAMPLES = 8
"""Sampled rows by which a context is judged: its latest. Early rows, of which few pages are listed, do worse."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One row in `every` is scored both ways; while a context's recall lies below `floor`, it is scored exactly."""

    floor: float
    every: int

    def sampled(self, positions: torch.Tensor) -> torch.Tensor:
        """Which of `positions` int64 are samples, bool."""
        return is_sampled(positions, self.every)
