"""The recall guard's samples: rows that are scored exactly, too, beside the forward.

On CUDA a few rows over a long context keep a few of a device's processors busy for long, so they are scored on a stream
of their own; what they find is waited for before the next forward.
"""

from dataclasses import replace
from typing import Any

import torch

from sgl_indexcache.indexer.kernels import TwoLevelKernels
from sgl_indexcache.indexer.layout import ListedRows
from sgl_indexcache.selection import Inputs, TensorQueries, Terms
from sgl_indexcache.store.page_records import PageRecords


class Samples:
    """Judges samples, into the records' guard and, of forwards of requests, counts."""

    def __init__(self, records: PageRecords, kernels: TwoLevelKernels, topk: int) -> None:
        device = records.device
        self._records, self._kernels, self._topk = records, kernels, topk
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        # What the stream reads must not be given to others before it has.
        self._held: list[Any] = []

    def judge(
        self,
        layer: int,
        inputs: Inputs,
        part: ListedRows,
        listed: torch.Tensor,
        rows: TensorQueries,
        *,
        counted: bool,
    ) -> None:
        """Score the part's samples, `rows`, exactly, and note how much of that `listed` int32 [G, n + 1] holds.

        inputs are the layer's.
        """
        if self._stream is None:
            self._judge(layer, inputs, part, listed, rows, counted)
            return
        self._held.append((inputs.page_table, part, listed, rows))
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._judge(layer, inputs, part, listed, rows, counted)

    def join(self) -> None:
        """What follows on the current stream sees all that was judged."""
        if self._stream is not None and self._held:
            torch.cuda.current_stream().wait_stream(self._stream)
            self._held.clear()

    def _judge(
        self,
        layer: int,
        inputs: Inputs,
        part: ListedRows,
        listed: torch.Tensor,
        rows: TensorQueries,
        counted: bool,
    ) -> None:
        samples = part.samples
        count = len(samples.lengths)
        exact = torch.empty(count, self._topk, dtype=torch.int32, device=listed.device)
        self._kernels.select(
            replace(inputs, queries=rows, request=samples.request, lengths=samples.lengths),
            Terms("positions", inputs.page_table),
            exact,
            rows=slice(0, count),
            max_length=part.start + part.rows,
        )
        self._kernels.judge(
            exact,
            listed,
            samples.group,
            inputs.page_table[part.request],
            samples.lengths,
            self._records.guard_of(layer),
            self._records.counts_of(layer),
            counted=counted,
        )
