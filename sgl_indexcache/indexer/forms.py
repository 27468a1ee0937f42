"""SGLang's three forms of a selection on CUDA, and the positions that they stand for.

The indices of a row keep their order, -1 padding included: the sum that attention takes over them follows it.
"""

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.selection import Terms


def from_positions(positions: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Selections int32 [R, k] of the first R rows of one request, -1 padded, in the form of `terms`."""
    if terms.form == "slots":
        return _translate(positions, terms.page_table[0])
    if terms.form == "offsets":
        assert terms.offsets is not None
        return torch.where(positions < 0, positions, positions + terms.offsets[: len(positions)].unsqueeze(1))
    return positions


def to_positions(selection: torch.Tensor, terms: Terms, page_of: torch.Tensor) -> torch.Tensor:
    """The positions int32 [R, k] of selections of the first R rows; page_of int32 [KV pages] is `note_pages`'s."""
    if terms.form == "slots":
        return _translate(selection, page_of)
    if terms.form == "offsets":
        assert terms.offsets is not None
        return torch.where(selection < 0, selection, selection - terms.offsets[: len(selection)].unsqueeze(1))
    return selection


def note_pages(page_of: torch.Tensor, page_table: torch.Tensor) -> None:
    """Write into page_of int32 [KV pages] which page of the one request of `page_table` int32 [1, P] each one is."""
    pages = page_table[0].long()
    page_of[pages] = torch.arange(len(pages), dtype=page_of.dtype, device=page_of.device)


def shift(selection: torch.Tensor, offsets: torch.Tensor) -> None:
    """Add `offsets` int32 [R] to a selection int32 [R, k] in place, but for its padding."""
    selection.copy_(torch.where(selection < 0, selection, selection + offsets.unsqueeze(1)))


def _translate(indices: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Every index but -1 in another page, at the same place in it."""
    page = pages.index_select(0, (indices.clamp(min=0) // PAGE).view(-1)).view_as(indices)
    return torch.where(indices < 0, indices, page * PAGE + indices % PAGE)
