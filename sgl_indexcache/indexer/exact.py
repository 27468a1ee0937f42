"""Exact scoring: every key up to a row's position is scored, the k best are selected."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from sgl_indexcache.indexer.rows import Rows
from sgl_indexcache.kernels.score import score
from sgl_indexcache.kernels.select import select

Queries = Callable[[slice], tuple[torch.Tensor, torch.Tensor]]
"""Index queries `[R, H, D]` and head gates `[R, H]` of a slice of R rows. Computed when they are needed: for all
rows of a long prefill they would be the largest tensor of the forward."""

# Scores are computed in tiles of about this many float32 products, so that the rectified products of a tile
# are still in a core's cache when the head gates sum them up. Chosen by kernels/benchmarks/cpu_prefill.py
# --sweep (docs/results/cpu-prefill.md).
TILE_PRODUCTS = 1 << 19
KEYS_PER_TILE = 256
# Rows are scored and selected in slices of this many, so that early rows of a prompt neither score nor search
# the columns that only later rows see.
ROWS_PER_SLICE = 256


@dataclass(frozen=True, slots=True)
class Selector:
    """How a Full layer selects: `topk` positions, of which the first `initial` and last `local` are forced.

    scratch_bytes bounds the score matrix (float32) that is alive at a time, whatever the batch.
    """

    topk: int
    initial: int = 0
    local: int = 0
    scratch_bytes: int = 256 << 20

    def __call__(
        self,
        queries: Queries,
        keys: torch.Tensor,
        slot_table: torch.Tensor,
        rows: Rows,
    ) -> torch.Tensor:
        """Selection int32 `[T, topk]` of a forward's rows, request-relative, ascending, -1 padded.

        keys [slots, D] is the layer's index-key cache, which holds this forward's keys already; slot_table
        [requests, positions] maps positions to cache slots.
        """
        out = torch.full((rows.length.shape[0], self.topk), -1, dtype=torch.int32)
        for span in rows.spans:
            # Rows that see at most topk keys select all of them: nothing to score.
            start = max(0, min(span.rows, self.topk - (span.length - span.rows)))
            first, last = span.first, span.first + span.rows
            if start:
                seen = rows.length[first : first + start]
                ramp = torch.arange(min(self.topk, span.length), dtype=torch.int32)
                out[first : first + start, : ramp.numel()] = torch.where(ramp < seen.unsqueeze(1), ramp, -1)
            if start == span.rows:
                continue
            past = keys.index_select(0, slot_table[span.request, : span.length].long()).float()
            step = max(1, min(ROWS_PER_SLICE, self.scratch_bytes // (4 * span.length)))
            for begin in range(first + start, last, step):
                end = min(last, begin + step)
                lengths = rows.length[begin:end]
                scores = self._scores(*queries(slice(begin, end)), past, lengths)
                out[begin:end] = select(scores, lengths, self.topk)
        return out

    def _scores(self, q: torch.Tensor, gates: torch.Tensor, keys: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Scores `[R, S]` of R rows of one request; columns past a row's length hold anything finite."""
        count, heads, _ = q.shape
        width = int(lengths.max())
        scores = torch.empty(count, width)
        columns = min(width, KEYS_PER_TILE)
        step = max(1, TILE_PRODUCTS // (heads * columns))
        scratch = torch.empty(min(step, count) * heads * columns)
        for begin in range(0, count, step):
            tile = slice(begin, min(count, begin + step))
            reach = int(lengths[tile].max())
            scores[tile, reach:] = 0.0
            for left in range(0, reach, columns):
                right = min(reach, left + columns)
                scores[tile, left:right] = score(q[tile], keys[left:right], gates[tile], scratch)
        if self.initial:
            scores[:, : self.initial] = float("inf")
        if self.local:
            near = lengths.unsqueeze(1) - 1 - torch.arange(self.local)
            scores.scatter_(1, near.clamp(min=0), float("inf"))
        return scores
