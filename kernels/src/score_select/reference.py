"""A Full layer's selection from its parts: score keys in pages (score/reference.py), select (select/reference.py).

Arithmetic is in float64, so ties are ties of the formula.
"""

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.reference import score_paged
from sgl_indexcache.kernels.select.reference import select


def score_select(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    max_length: int,
    initial: int = 0,
    local: int = 0,
    names: torch.Tensor | None = None,
) -> torch.Tensor:
    """Selection int32 `[T, k]`: positions ascending, packed at the front, -1 padded; ties to the lower position.

    initial     first and `local` last positions of a row are selected before all others
    names       int32 [B, P]: names[b, p // 64] * 64 + p % 64 in place of position p, in that order

    For the rest see score_paged in score/reference.py.
    """
    scores = score_paged(
        q, weights, index_k, page_table, request, lengths, max_length=max_length, initial=initial, local=local
    )
    positions = select(scores, lengths, k)
    if names is None:
        return positions
    absent = positions < 0
    # Positions that are none must not look into the table either.
    page = names[request.long()].gather(1, positions.masked_fill(absent, 0).long() // PAGE)
    return torch.where(absent, -1, page * PAGE + positions % PAGE).to(torch.int32)
