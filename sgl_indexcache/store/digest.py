"""Selection digests: of a page's 64 queries, the pages that they selected most; counts of selected positions."""

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.select.cpu import select

WIDTH = 32
"""Pages that a digest names."""


def count_pages(selections: torch.Tensor, groups: torch.Tensor, count: int, pages: int) -> torch.Tensor:
    """How many positions of each page were selected: int32 `[count, pages]`, one row a group.

    selections int32 [R, k], -1 padded; groups int64 [R], which row of the result each selection belongs to.
    """
    page = torch.where(selections < 0, pages, selections // PAGE).long()
    counts = torch.zeros(count * (pages + 1), dtype=torch.int32)
    flat = (groups.unsqueeze(1) * (pages + 1) + page).view(-1)
    counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
    return counts.view(count, pages + 1)[:, :pages]


def most_selected(counts: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of counts int `[R, pages]`: the `width` highest, as pages int16 `[R, width]` and their counts int16.

    Of equal counts the lower page wins; pages ascend, -1 where fewer were selected at all.
    """
    lengths = torch.full((counts.shape[0],), counts.shape[1])
    found = select(counts.float(), lengths, width).long()
    value = counts.gather(1, found.clamp(min=0)).masked_fill(found < 0, 0)
    keep = value > 0
    order = (~keep).int().argsort(dim=1, stable=True)
    page = torch.where(keep, found, -1).gather(1, order)
    return page.to(torch.int16), value.gather(1, order).to(torch.int16)


def vote(digest: torch.Tensor, counts: torch.Tensor, pages: int, width: int) -> torch.Tensor:
    """The `width` pages that several digests (int16 `[D, W]` with counts) name most: int64 `[<= width]`.

    Only pages below `pages` count.
    """
    total = torch.zeros(pages + 1, dtype=torch.int64)
    page = digest.long().flatten()
    page = torch.where((page < 0) | (page >= pages), pages, page)
    total.scatter_add_(0, page, counts.long().flatten())
    found, _ = most_selected(total[None, :pages], min(width, pages))
    return found[0][found[0] >= 0].long()
