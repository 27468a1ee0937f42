"""How index keys lie in memory, for every op and every form of it.

A page is 64 consecutive positions of a request. On CUDA SGLang packs a page's keys as fp8 with a scale each
(mem_cache/memory_pool.py:4398); on the CPU they are plain floats.

    uint8 [pages, 64 * (D + 4)]   64 fp8 e4m3 keys of D bytes, then their 64 float32 scales
    float [pages, 64, D]          plain keys
"""

import torch

PAGE = 64
"""Positions of a page: SGLang's page size for DSA models."""
SCALE_BYTES = 4
"""Of a key's float32 scale."""
FP8_MAX = 448.0
"""The largest finite number of float8_e4m3fn."""


def pack(keys: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Pages uint8 `[pages, 64 * (D + 4)]` of keys fp8 `[pages, 64, D]` and scales float32 `[pages, 64]`."""
    return torch.cat([keys.view(torch.uint8).flatten(1), scales.contiguous().view(torch.uint8)], dim=1).contiguous()


def unpack(index_k: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Keys float64 `[64 * n, D]` of pages `[n]` in either layout, scales applied."""
    chosen = index_k[pages.long()]
    if index_k.dtype != torch.uint8:
        return chosen.flatten(0, 1).double()
    dim = chosen.shape[1] // PAGE - SCALE_BYTES
    keys = chosen[:, : PAGE * dim].contiguous().view(torch.float8_e4m3fn).view(-1, dim).double()
    scales = chosen[:, PAGE * dim :].contiguous().view(torch.float32).view(-1, 1).double()
    return keys * scales
