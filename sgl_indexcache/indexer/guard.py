"""The recall guard of two-level scoring: which rows are scored both ways, and what recall a context must reach."""

from dataclasses import dataclass

import torch

SAMPLES = 8
"""Sampled rows by which a context is judged: its latest. Early rows, of which few pages are listed, do worse."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One row in `every` is scored both ways; while a context's recall lies below `floor`, it is scored exactly."""

    floor: float
    every: int

    def sampled(self, positions: torch.Tensor) -> torch.Tensor:
        """Which of `positions` int64 are samples; a hash, so that no place within a page or a phrase is preferred."""
        return (positions * 0x9E3779B1) % (1 << 32) < (1 << 32) // self.every
