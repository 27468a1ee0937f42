"""What is kept of every KV page and Full layer for two-level scoring, in tensors indexed by KV page id.

A page's record lives and dies with its KV: whoever writes the first slot of a page takes it over, and the forward
that writes a token's key writes its part of the record too. Nothing of it depends on anything but the tokens up to
the end of the page: not on how a prompt was cut into forwards, not on who asked.
"""

from collections.abc import Sequence

import numpy as np
import torch

from sgl_indexcache.indexer.rows import Rows, Span
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.shortlist import pack_summary, unpack_summary
from sgl_indexcache.store.digest import WIDTH, count_pages, most_selected, vote

RECORD_BYTES = {"scale": 4, "digest": 4 * WIDTH, "guard": 8, "filled": 2, "generation": 4}
"""Bytes of a page and Full layer beside the summary's index_head_dim."""


def page_bytes(dim: int) -> int:
    """Bytes of one page and Full layer with index keys of `dim` columns."""
    return dim + sum(RECORD_BYTES.values())


class Pages:
    """Records of KV pages.

    summaries   uint8 [L, pages, D + 4]     mean index key, see kernels/src/shortlist
    digest      int16 [L, pages, 2, WIDTH]  pages of the request that the page's queries selected most, and counts
    guard       int32 [L, pages, 2]         positions that its sampled queries should have and have selected
    filled      int16 [L, pages]            slots that the summary covers
    generation  int32 [L, pages]            of the configuration that wrote the record
    open        int16 [L, requests, P]      counts of the page that a request is writing, until it is full

    layers     ids of the Full layers
    slots      KV slots; requests: rows of SGLang's request pool; positions: the longest request
    """

    def __init__(self, layers: Sequence[int], slots: int, dim: int, requests: int, positions: int) -> None:
        self.pages = slots // PAGE
        self.dim = dim
        self._requests, self._width = requests, -(-positions // PAGE)
        self._generation = 0
        self.configure(layers)

    def configure(self, layers: Sequence[int]) -> None:
        """Forget everything, and keep records of these Full layers; no request may be running."""
        self._layer = {layer: index for index, layer in enumerate(layers)}
        self._generation += 1
        shape = (len(layers), self.pages)
        self.summaries = torch.zeros(*shape, self.dim + 4, dtype=torch.uint8)
        self.digest = torch.full((*shape, 2, WIDTH), -1, dtype=torch.int16)
        self.guard = torch.zeros(*shape, 2, dtype=torch.int32)
        self.filled = torch.zeros(shape, dtype=torch.int16)
        self.generation = torch.zeros(shape, dtype=torch.int32)
        self.open = torch.zeros(len(layers), self._requests, self._width, dtype=torch.int16)
        self._end = torch.zeros(self._requests, dtype=torch.int64)
        self._lost: dict[int, int] = {}

    def forget(self) -> None:
        """No record is valid any longer, although KV may stay."""
        self._generation += 1
        self._end.zero_()

    # --- written by a forward ---

    def begin(self, rows: Rows) -> None:
        """Note, once a forward, which requests go on with the page that they have open."""
        for span in rows.spans:
            start = span.length - span.rows
            if start % PAGE == 0:
                self._lost.pop(span.request, None)
            elif int(self._end[span.request]) != start:
                self._lost[span.request] = start // PAGE
            self._end[span.request] = span.length

    def store_keys(self, layer: int, keys: torch.Tensor, slot_table: torch.Tensor, rows: Rows) -> None:
        """Bring the summaries of all pages that a forward writes up to date; its keys are in `keys [slots, D]`."""
        index = self._layer[layer]
        touched, filled, fresh = [], [], []
        for span in rows.spans:
            start = span.length - span.rows
            first = start // PAGE
            ids = self.ids(slot_table, span)[first:]
            touched.append(ids)
            ends = torch.arange(first + 1, first + 1 + ids.numel()) * PAGE
            filled.append(ends.clamp(max=span.length) - ends + PAGE)
            fresh.append(torch.arange(first, first + ids.numel()) * PAGE >= start)
        if not touched:
            return
        ids, count, new = torch.cat(touched), torch.cat(filled), torch.cat(fresh)
        taken = ids[new]
        self.digest[index, taken] = -1
        self.guard[index, taken] = 0
        seen = torch.arange(PAGE) < count.unsqueeze(1)
        whole = keys[: self.pages * PAGE].view(self.pages, PAGE, -1)
        total = whole[ids].float().masked_fill(~seen.unsqueeze(-1), 0.0).sum(1)
        self.summaries[index, ids] = pack_summary(total / count.unsqueeze(1))
        self.filled[index, ids] = count.to(torch.int16)
        self.generation[index, ids] = self._generation

    def store_selections(self, layer: int, ids: torch.Tensor, span: Span, begin: int, selections: torch.Tensor) -> None:
        """Count what the request's consecutive queries from position `begin` on selected, int32 `[R, k]`.

        `ids` as of the span. A digest is written when its page is full, and only if all 64 queries were counted.
        """
        if self._lost.get(span.request) == begin // PAGE:
            # The page that was open has lost rows; those after it are whole.
            skip = PAGE - begin % PAGE
            begin, selections = begin + skip, selections[skip:]
            if not selections.shape[0]:
                return
        index = self._layer[layer]
        end = begin + selections.shape[0]
        first, last = begin // PAGE, (end - 1) // PAGE
        groups = torch.arange(begin, end) // PAGE - first
        counts = count_pages(selections, groups, last - first + 1, last + 1)
        open_page = self.open[index, span.request, : last + 1]
        if begin % PAGE:
            counts[0] += open_page
        full = end // PAGE - first
        if full:
            digest, count = most_selected(counts[:full], WIDTH)
            self.digest[index, ids[first : first + full]] = torch.stack((digest, count), 1)
        if end % PAGE:
            open_page.copy_(counts[-1])

    def lose(self, rows: Rows) -> None:
        """This forward's queries select nothing: the pages that they leave open get no digest."""
        for span in rows.spans:
            if span.length % PAGE:
                self._lost[span.request] = span.length // PAGE

    def store_recall(self, layer: int, page: int, wanted: int, found: int) -> None:
        """Add sampled queries of KV page `page`: positions that they should have and have selected."""
        self.guard[self._layer[layer], page] += torch.tensor([wanted, found], dtype=torch.int32)

    # --- read by a forward ---

    def ids(self, slot_table: torch.Tensor, span: Span) -> torch.Tensor:
        """KV page ids int64 `[P]` of a request's pages."""
        ids: torch.Tensor = slot_table[span.request, : span.length : PAGE].long() // PAGE
        return ids

    def valid(self, layer: int, ids: torch.Tensor) -> torch.Tensor:
        """Which of these pages have a record of 64 keys, written under the configuration in force; bool `[P]`."""
        index = self._layer[layer]
        full: torch.Tensor = self.filled[index, ids] == PAGE
        return full & (self.generation[index, ids] == self._generation)

    def means(self, layer: int, ids: torch.Tensor) -> torch.Tensor:
        """Mean keys float32 `[P, D]`."""
        means: torch.Tensor = unpack_summary(self.summaries[self._layer[layer], ids])
        return means

    def vote(self, layer: int, ids: torch.Tensor, pages: int, width: int) -> torch.Tensor:
        """The pages, below `pages` and at most `width`, that these pages' digests name most; int64, ascending."""
        found, counts = self.digest[self._layer[layer], ids].unbind(1)
        return vote(found, counts, pages, width)

    def recall(self, layer: int, ids: torch.Tensor) -> torch.Tensor:
        """Positions that sampled queries of these pages should have and have selected, int64 `[P, 2]`."""
        return self.guard[self._layer[layer], ids].long()

    @property
    def valid_pages(self) -> int:
        """KV pages with a record as `valid` asks for; all Full layers are written alike, so the first one is asked."""
        # numpy views of the same memory: a scheduler step asks, and torch would take seven times as long.
        full = self.filled[0].numpy() == PAGE
        full &= self.generation[0].numpy() == self._generation
        return int(np.count_nonzero(full))

    @property
    def used_bytes(self) -> int:
        """Bytes of all tensors."""
        records = (self.summaries, self.digest, self.guard, self.filled, self.generation, self.open)
        return sum(tensor.numel() * tensor.element_size() for tensor in records)
