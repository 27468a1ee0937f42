"""The dtype that results are accumulated in: float64 if an input is float64 (tests), else float32."""

import torch


def accumulation_dtype(*inputs: torch.Tensor) -> torch.dtype:
    """float64 if one of the inputs is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32


def wide(x: torch.Tensor) -> torch.Tensor:
    """x in the accumulation dtype."""
    return x.to(accumulation_dtype(x))
