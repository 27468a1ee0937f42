"""What is kept of every KV page and Full layer for two-level scoring, in tensors indexed by KV page id.

A summary is a function of the page's index keys, which live in the same page. So nothing is written while tokens are
decoded or prefilled without an indexer: whoever writes the first slot of a page marks its records as absent, and the
first forward that shortlists the page makes its summary. A record can be missing, never stale.
"""

from collections.abc import Sequence

import torch

from sgl_indexcache.kernels.layout import PAGE

RECORD_BYTES = {"scale": 4, "guard": 8, "has_summary": 1}
"""Bytes of a page and Full layer beside the summary's index_head_dim."""
COUNTS = 4


def page_bytes(dim: int) -> int:
    """Bytes of one page and Full layer with index keys of `dim` columns."""
    return dim + sum(RECORD_BYTES.values())


class PageRecords:
    """Records of KV pages on a device.

    summaries    uint8 [L, pages, D + 4]  mean index key, see kernels/src/shortlist
    has_summary  uint8 [L, pages]         whether the summary stands
    guard        int32 [L, pages, 2]      positions that its sampled queries should have and have found
    counts       int64 [L, 4]             of all pages: samples, positions found by them, decoded rows that the guard
                                          has had scored exactly, and their keys
    """

    def __init__(self, layers: Sequence[int], pages: int, dim: int, device: torch.device | str) -> None:
        self.pages, self.dim, self.device = pages, dim, torch.device(device)
        self.valid_pages = 0
        """pages with a summary when the device was last asked"""
        self.configure(layers)

    def configure(self, layers: Sequence[int]) -> None:
        """Forget everything, and keep records of these Full layers; no request may be running."""
        self._layer = {layer: index for index, layer in enumerate(layers)}
        shape = (len(layers), self.pages)
        self.summaries = torch.zeros(*shape, self.dim + 4, dtype=torch.uint8, device=self.device)
        self.has_summary = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self.guard = torch.zeros(*shape, 2, dtype=torch.int32, device=self.device)
        self.counts = torch.zeros(len(layers), COUNTS, dtype=torch.int64, device=self.device)

    def forget(self) -> None:
        """No record is valid any longer, although KV may stay."""
        self.has_summary.zero_()
        self.guard.zero_()

    def take(self, positions: torch.Tensor, slots: torch.Tensor) -> None:
        """A forward writes tokens at `positions` int [T] into KV `slots` int [T]: pages that it begins lose records.

        Rows of padding may stand at any position of slot 0, whose page belongs to nobody.
        """
        begun = torch.where(positions % PAGE == 0, slots // PAGE, 0)
        # Not by indexing, which waits for the device.
        self.has_summary.index_fill_(1, begun, 0)
        self.guard.index_fill_(1, begun, 0)

    def of(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A Full layer's summaries `[pages, D + 4]` and which of them stand `[pages]`."""
        index = self._layer[layer]
        return self.summaries[index], self.has_summary[index]

    def guard_of(self, layer: int) -> torch.Tensor:
        """A Full layer's guard `[pages, 2]`."""
        return self.guard[self._layer[layer]]

    def counts_of(self, layer: int) -> torch.Tensor:
        """A Full layer's counts `[4]`."""
        return self.counts[self._layer[layer]]

    @property
    def layers(self) -> tuple[int, ...]:
        """Ids of the Full layers."""
        return tuple(self._layer)

    @property
    def used_bytes(self) -> int:
        """Bytes of the records of all pages."""
        return sum(t.numel() * t.element_size() for t in (self.summaries, self.has_summary, self.guard))
