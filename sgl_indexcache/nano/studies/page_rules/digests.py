"""Selection digests: each page names the pages that its 64 queries selected most, and the latest of them vote.

A candidate only: digests raise neither recall nor the facts found, so nothing that is served keeps them.
"""

import torch

from sgl_indexcache.kernels.layout import PAGE

WIDTH = 32
"""Pages that a digest names."""
VOTERS = 2
"""Pages just before a row's own whose digests vote."""
VOTES = 4
"""Pages that they may force into a list. More costs recall, since a vote knows nothing of the query."""
BYTES = 4 * WIDTH
"""Of a digest: int16 pages and their counts."""


def elect(counts: torch.Tensor, page: int, width: int, pages: int) -> torch.Tensor:
    """bool [pages]: the `width` pages before `page` that the digests of the VOTERS before it name most.

    counts  [T, pages or more]  positions that each row selected of each page; rows of the pages before `page` count
    """
    total = counts.new_zeros(counts.shape[1])
    for voter in range(max(0, page - VOTERS), page):
        digest = counts[voter * PAGE : (voter + 1) * PAGE].sum(0).topk(min(WIDTH, total.numel()))
        total.scatter_add_(0, digest.indices, digest.values)
    elected = torch.zeros_like(total, dtype=torch.bool)
    top = total[:page].topk(min(width, page))
    elected[top.indices] = top.values > 0
    return elected[:pages]
