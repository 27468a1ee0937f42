"""The recall guard's samples on CUDA: rows of a prefill that are scored exactly, too, beside the forward.

A few rows over a long context keep a few of a device's processors busy for long, so they are scored on a stream of
their own; what they find is waited for before the next forward.
"""

from typing import Any

import torch

from sgl_indexcache.indexer.cuda import select_rows
from sgl_indexcache.indexer.inputs import Inputs
from sgl_indexcache.indexer.parts import Part, Rows
from sgl_indexcache.kernels.shortlist.cuda_guard import judge
from sgl_indexcache.store.device_pages import DevicePages


class Samples:
    """Judges samples; `counts` int64 [L, >= 2] of forwards that somebody asked for: samples, and positions of their
    exact selections that lists held."""

    def __init__(self, pages: DevicePages, topk: int, budget_bytes: int, counts: torch.Tensor) -> None:
        device = pages.there.device
        self._pages, self._topk, self._budget_bytes, self._counts = pages, topk, budget_bytes, counts
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        # What the stream reads must not be given to others before it has.
        self._held: list[Any] = []

    def judge(self, layer: int, given: Inputs, part: Part, listed: torch.Tensor, rows: Rows, *, asked: bool) -> None:
        """Score the part's samples `rows` exactly, and note how much of that `listed` int32 [G, n + 1] holds.

        given: of the layer.
        """
        if self._stream is None:
            self._judge(layer, given, part, listed, rows, asked)
            return
        self._held.append((given.page_table, part, listed, rows))
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._judge(layer, given, part, listed, rows, asked)

    def join(self) -> None:
        """What follows on the current stream sees all that was judged."""
        if self._stream is not None and self._held:
            torch.cuda.current_stream().wait_stream(self._stream)
            self._held.clear()

    def _judge(self, layer: int, given: Inputs, part: Part, listed: torch.Tensor, rows: Rows, asked: bool) -> None:
        wanted = torch.empty(part.samples, self._topk, dtype=torch.int32, device=listed.device)
        select_rows(
            given.indexer, rows.queries, rows.gates, given.index_k, given.page_table, part.sampled_request,
            part.sampled_lengths, max_length=part.start + part.rows, form="positions", offsets=None,
            budget_bytes=self._budget_bytes, out=wanted,
        )  # fmt: skip
        index = self._pages.layers.index(layer)
        judge(
            wanted, listed, part.sampled_group, given.page_table[part.request], part.sampled_lengths,
            self._pages.guard[index], self._counts[index], counted=asked,
        )  # fmt: skip
