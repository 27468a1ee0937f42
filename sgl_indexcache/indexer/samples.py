"""The recall guard's samples on CUDA: rows of a prefill that are scored exactly, too, beside the forward.

A few rows over a long context keep a few of a device's processors busy for long, so they are scored on a stream of
their own; what they find is waited for before the next forward.
"""

from typing import Any

import torch

from sgl_indexcache.indexer.cuda import select_rows
from sgl_indexcache.indexer.inputs import Inputs
from sgl_indexcache.indexer.parts import Part
from sgl_indexcache.kernels.shortlist import PAGE
from sgl_indexcache.store.device_pages import DevicePages


class Samples:
    """Counts by pages (`DevicePages.guard`) and, of forwards that somebody asked for, in all.

    seen  int64 [L, 2]: samples, and positions of their exact selections that lists held
    """

    def __init__(self, pages: DevicePages, topk: int, budget_bytes: int) -> None:
        device = pages.there.device
        self._pages, self._topk, self._budget_bytes = pages, topk, budget_bytes
        self.seen = torch.zeros(len(pages.layers), 2, dtype=torch.int64, device=device)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        # What the stream reads must not be given to others before it has.
        self._held: list[Any] = []

    def judge(self, layer: int, given: Inputs, part: Part, listed: torch.Tensor, *, asked: bool) -> None:
        """Score the part's samples exactly, and note how much of that `listed` int32 [G, n + 1] holds.

        The best of a subset are those of the best that lie in it: what two-level scoring finds of an exact selection is
        what lies in listed pages. given: of the layer.
        """
        # torch does not gather fp8 itself.
        queries = given.queries.view(torch.uint8)[part.sampled].view(given.queries.dtype)
        gates = given.gates[part.sampled]
        if self._stream is None:
            self._judge(layer, given, part, listed, queries, gates, asked)
            return
        self._held.append((given.page_table, part, listed, queries, gates))
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._judge(layer, given, part, listed, queries, gates, asked)

    def join(self) -> None:
        """What follows on the current stream sees all that was judged."""
        if self._stream is not None and self._held:
            torch.cuda.current_stream().wait_stream(self._stream)
            self._held.clear()

    def _judge(
        self,
        layer: int,
        given: Inputs,
        part: Part,
        listed: torch.Tensor,
        queries: torch.Tensor,
        gates: torch.Tensor,
        asked: bool,
    ) -> None:
        wanted = torch.empty(part.samples, self._topk, dtype=torch.int32, device=listed.device)
        table = given.page_table[part.request : part.request + 1]
        select_rows(
            given.indexer, queries, gates, given.index_k, table, torch.zeros_like(part.sampled_lengths),
            part.sampled_lengths, max_length=part.start + part.rows, form="positions", offsets=None,
            budget_bytes=self._budget_bytes, out=wanted,
        )  # fmt: skip
        lists = listed[part.sampled_group]
        pages = wanted // PAGE
        nearest = torch.searchsorted(lists, pages).clamp_(max=part.n)
        found = (lists.gather(1, nearest) == pages).sum(1)
        own = table[0, lists[:, part.n].long()]
        self._pages.add_recall(layer, own.long(), self._topk, found)
        if asked:
            seen = self.seen[self._pages.layers.index(layer)]
            seen[0] += part.samples
            seen[1] += found.sum()
