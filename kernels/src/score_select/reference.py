"""The fused op from its parts: unpack the pages, score (eq. 1 of the DeepSeek-V3.2 report), force, select.

Layouts and the result are those of api.py; arithmetic is in float64, so ties are ties of the formula.
"""

import torch

from sgl_indexcache.kernels.score.reference import score
from sgl_indexcache.kernels.select.reference import select

PAGE = 64
SCALE_BYTES = 4


def pack(keys: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Pages uint8 `[pages, 64 * (D + 4)]` of keys fp8 `[pages, 64, D]` and scales float32 `[pages, 64]`."""
    return torch.cat([keys.view(torch.uint8).flatten(1), scales.contiguous().view(torch.uint8)], dim=1).contiguous()


def unpack(index_k: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Keys float64 `[64 * n, D]` of pages `[n]`, scales applied."""
    packed = index_k[pages.long()]
    dim = packed.shape[1] // PAGE - SCALE_BYTES
    keys = packed[:, : PAGE * dim].contiguous().view(torch.float8_e4m3fn).view(-1, dim).double()
    scales = packed[:, PAGE * dim :].contiguous().view(torch.float32).view(-1, 1).double()
    return keys * scales


def logits(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    *,
    initial: int = 0,
    local: int = 0,
) -> torch.Tensor:
    """Scores float64 `[T, max(lengths)]`: -inf past a row's length, +inf in forced positions."""
    longest = int(lengths.max()) if len(lengths) else 0
    out = torch.full((q.shape[0], longest), float("-inf"), dtype=torch.float64, device=q.device)
    for row, length in enumerate(lengths.tolist()):
        if length:
            keys = unpack(index_k, page_table[int(request[row]), : (length + PAGE - 1) // PAGE])[:length]
            out[row, :length] = score(q[row : row + 1].double(), keys, weights[row : row + 1].double())[0]
            out[row, : min(initial, length)] = float("inf")
            out[row, max(0, length - local) : length] = float("inf")
    return out


def score_select(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    initial: int = 0,
    local: int = 0,
    names: torch.Tensor | None = None,
) -> torch.Tensor:
    """Selection int32 `[T, k]`; see api.score_select."""
    scores = logits(q, weights, index_k, page_table, request, lengths, initial=initial, local=local)
    if scores.shape[1] == 0:
        return torch.full((q.shape[0], k), -1, dtype=torch.int32, device=q.device)
    found = select(scores, lengths, k)
    if names is None:
        return found
    there = found >= 0
    # Positions that are not there must not look into the table either.
    table = names[request.long()].gather(1, torch.where(there, found, 0).long() // PAGE)
    return torch.where(there, table * PAGE + found % PAGE, -1).to(torch.int32)
