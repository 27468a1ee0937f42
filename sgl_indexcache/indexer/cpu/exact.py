"""Exact scoring: every key up to a row's position is scored, the k best are selected."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from sgl_indexcache.indexer.cpu.workers import share
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.selection import KnownRows, Queries, Rows

# Scores are computed in tiles of about this many float32 products, so that the rectified products of a tile
# are still in a core's cache when the head gates sum them up. Chosen by bench/cpu_prefill.py
# --sweep (docs/results/cpu-prefill.md).
TILE_PRODUCTS = 1 << 20
KEYS_PER_TILE = 1024
# Rows are scored and selected in slices of this many, so that early rows of a prompt neither score nor search
# the columns that only later rows see.
ROWS_PER_SLICE = 256
# Fewer scores than these are not worth waking threads for.
LEAST_SCORES = 1 << 16
# With more of torch's threads than this each operation is divided between all of them: a prompt has too few slices to
# keep every thread busy. Measured with two.
MOST_WORKERS = 4
# A BLAS takes other kernels, with other rounding, for very flat products: fewer than 16 rows on x86-64 with MKL
# (tests/indexer/cpu/test_known_rows.py). A tile of which only a few rows are left to score is therefore scored whole.
LEAST_PRODUCTS = 64
# Scores are computed for whole groups of this many keys: where the products' rows are not aligned, MKL sums the heads
# of a query in an order that depends on how many queries there are (tests/indexer/cpu/test_known_rows.py).
KEYS_ALIGNED = 16


def measure(known: KnownRows, rows: slice | torch.Tensor, scores: torch.Tensor) -> None:
    """Write the margins of the watched ones of R `rows`, whose selections stand and whose scores are [R, S].

    Columns that a row does not see hold -inf, as `select` leaves them.
    """
    watched = known.watched[rows].nonzero().squeeze(1)
    if not watched.numel():
        return
    index = torch.arange(rows.start, rows.stop)[watched] if isinstance(rows, slice) else rows[watched]
    known.margin[index] = margin(scores[watched], known.selection[index])


def margin(scores: torch.Tensor, selection: torch.Tensor) -> torch.Tensor:
    """Margin float32 `[R]` of selections int32 [R, k] over scores [R, S]; see `KnownRows`."""
    picks = selection.long()
    chosen = scores.gather(1, picks.clamp(min=0))
    last = chosen.masked_fill(picks < 0, float("inf")).amin(1)
    # Padding points at the first pick, which is selected anyway.
    left = scores.scatter(1, torch.where(picks < 0, picks[:, :1], picks), float("-inf")).amax(1)
    largest = scores.masked_fill(scores.isinf(), 0.0).abs().amax(1)
    return torch.nan_to_num((last - left) / largest, nan=0.0, posinf=float("inf"))


class Slice(NamedTuple):
    """Rows `begin` to `end` of a forward that are scored and selected together.

    lengths int64 [end - begin]; past float32 [_aligned(length), D] are the index keys of their request.
    """

    begin: int
    end: int
    lengths: torch.Tensor
    past: torch.Tensor


def _aligned(keys: int) -> int:
    """The next multiple of KEYS_ALIGNED."""
    return -(-keys // KEYS_ALIGNED) * KEYS_ALIGNED


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
        known: KnownRows | None = None,
    ) -> torch.Tensor:
        """Selection int32 `[T, topk]` of a forward's rows, request-relative, ascending, -1 padded.

        keys [slots, D] is the layer's index-key cache, which holds this forward's keys already; slot_table
        [requests, positions] maps positions to cache slots. Rows that are settled in `known` are neither scored nor
        selected, and leave the scores of the other rows as they are, to the bit.
        """
        out = torch.full((rows.length.shape[0], self.topk), -1, dtype=torch.int32) if known is None else known.selection
        share(
            self._slices(keys, slot_table, rows, out, known),
            lambda: lambda part: self._fill(part, queries, out, known),
            self._workers(rows),
        )
        return out

    def _workers(self, rows: Rows) -> int:
        """Threads between which the slices of these rows are divided."""
        threads = torch.get_num_threads()
        if threads > MOST_WORKERS or sum(span.rows * span.length for span in rows.spans) < LEAST_SCORES:
            return 1
        largest = max(4 * _aligned(span.length) * min(span.rows, self._step(span.length)) for span in rows.spans)
        return min(threads, self.scratch_bytes // largest)

    def _step(self, length: int) -> int:
        """Rows a slice of a request of `length` keys."""
        return max(1, min(ROWS_PER_SLICE, self.scratch_bytes // (4 * _aligned(length))))

    def _slices(
        self, keys: torch.Tensor, slot_table: torch.Tensor, rows: Rows, out: torch.Tensor, known: KnownRows | None
    ) -> Iterator[Slice]:
        """Fill the rows that see no more than they select; what is left to score, the longest of a request first."""
        for span in rows.spans:
            # Rows that see at most topk keys select all of them: nothing to score.
            start = max(0, min(span.rows, self.topk - (span.length - span.rows)))
            first, last = span.first, span.first + span.rows
            if start:
                lengths = rows.length[first : first + start]
                ramp = torch.arange(min(self.topk, span.length), dtype=torch.int32)
                out[first : first + start, : ramp.numel()] = torch.where(ramp < lengths.unsqueeze(1), ramp, -1)
                if known is not None:
                    known.margin[first : first + start] = float("inf")
            if start == span.rows or (known is not None and bool(known.settled[first + start : last].all())):
                continue
            slots = slot_table[span.request, : span.length].long()
            more = slots[-1:].expand(_aligned(span.length) - span.length)
            past = keys.index_select(0, torch.cat([slots, more])).float()
            step = self._step(span.length)
            for begin in reversed(range(first + start, last, step)):
                end = min(last, begin + step)
                yield Slice(begin, end, rows.length[begin:end], past)

    def _fill(self, part: Slice, queries: Queries, out: torch.Tensor, known: KnownRows | None) -> None:
        """Write the selections of a slice, and the margins of its watched rows."""
        begin, end, lengths, past = part
        if known is None or not known.settled[begin:end].any():
            scores = self._scores(*queries(slice(begin, end)), past, lengths)
            out[begin:end] = select(scores, lengths, self.topk)
            if known is not None:
                measure(known, slice(begin, end), scores)
        elif not known.settled[begin:end].all():
            # All rows are projected, so that the products have the shape that they have without `known`.
            q, gates = queries(slice(begin, end))
            to_score = self._to_score(known.settled[begin:end], q.shape[1], _aligned(int(lengths.max())))
            known.settled[begin:end] = ~to_score
            picked = to_score.nonzero().squeeze(1)
            scores = self._scores(q, gates, past, lengths, picked)
            out[begin + picked] = select(scores, lengths[picked], self.topk)
            measure(known, begin + picked, scores)

    def _rows_per_tile(self, heads: int, width: int) -> int:
        return max(1, TILE_PRODUCTS // (heads * min(width, KEYS_PER_TILE)))

    def _to_score(self, known: torch.Tensor, heads: int, width: int) -> torch.Tensor:
        """Rows bool `[R]` to score: those not known, and all of a tile in which too few are left (LEAST_PRODUCTS)."""
        to_score = ~known
        step = self._rows_per_tile(heads, width)
        for tile in torch.split(to_score, step):
            if 0 < int(tile.sum()) * heads < LEAST_PRODUCTS:
                tile.fill_(True)
        return to_score

    def _scores(
        self,
        q: torch.Tensor,
        gates: torch.Tensor,
        keys: torch.Tensor,
        lengths: torch.Tensor,
        picked: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scores `[R, S]` of R rows of one request over `keys [_aligned(length), D]`; S is aligned too.

        Columns past a row's length hold anything finite.
        With `picked`, ascending rows int64 [P], scores `[P, S]` of those alone, in the tiles of all R.
        """
        count, heads, _ = q.shape
        width = _aligned(int(lengths.max()))
        columns = min(width, KEYS_PER_TILE)
        step = self._rows_per_tile(heads, width)
        scratch = torch.empty(min(step, count) * heads * columns)
        starts = range(0, count, step)
        reaches = [_aligned(int(lengths[begin : begin + step].max())) for begin in starts]
        edges = [*starts, count]
        if picked is not None:
            edges = torch.searchsorted(picked, torch.tensor(edges)).tolist()
            q, gates, lengths = q[picked], gates[picked], lengths[picked]
        scores = torch.empty(q.shape[0], width)
        for begin, end, reach in zip(edges, edges[1:], reaches, strict=False):
            if begin == end:
                continue
            tile = slice(begin, end)
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
