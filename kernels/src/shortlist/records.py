"""What is kept of the pages of a Full layer, and the rules of the recall guard; for every form of the op."""

from dataclasses import dataclass

import torch

from sgl_indexcache.kernels.layout import FP8_MAX, SCALE_BYTES

HASH = 0x9E3779B1
"""2^32 over the golden ratio: neighbouring positions hash far apart."""
JUDGED_PAGES = 1024
"""A context is judged by samples in so many pages before it at most: 256 samples at one in 256 rows."""


@dataclass(frozen=True, slots=True)
class Records:
    """What is kept of the KV pages in one Full layer.

    summaries    uint8 [KV pages, D + 4], see pack_summary
    has_summary  uint8 [KV pages], 1 where the summary is written
    guard        int32 [KV pages, 2]: positions that the page's sampled rows should have found, and have found
    counts       int64 [4], added to: samples, positions that they found, rows that fell back, keys that these saw
    """

    summaries: torch.Tensor
    has_summary: torch.Tensor
    guard: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, slots=True)
class Judgement:
    """The recall guard's rule.

    every  one row in so many is a sample, scored exactly, too
    need   positions that the latest samples of a context must make up before it is judged
    floor  share of these positions below which the context is scored exactly
    """

    every: int
    need: int
    floor: float


def is_sampled(position: torch.Tensor, every: int) -> torch.Tensor:
    """Whether the rows at positions int64 `[...]` are samples, bool: by their position alone, so that every rank and
    every run agree."""
    return (position * HASH & 0xFFFFFFFF) < (1 << 32) // every


def pack_summary(mean: torch.Tensor) -> torch.Tensor:
    """Summaries uint8 `[..., D + 4]`, fp8 key then float32 scale, of mean keys float32 `[..., D]`."""
    scale = (mean.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    key = (mean / scale).to(torch.float8_e4m3fn)
    return torch.cat((key.view(torch.uint8), scale.view(torch.uint8)), -1)


def unpack_summary(packed: torch.Tensor) -> torch.Tensor:
    """Mean keys float32 `[..., D]` of summaries uint8 `[..., D + 4]`."""
    packed = packed.contiguous()
    key = packed[..., :-SCALE_BYTES].contiguous().view(torch.float8_e4m3fn).float()
    return key * packed[..., -SCALE_BYTES:].contiguous().view(torch.float32)
