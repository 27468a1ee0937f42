"""How the rows of a CUDA prefill are cut: rows without a shortlist, and rows that list equally many pages."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import Guard
from sgl_indexcache.kernels.shortlist import GROUP, PAGE


class Plain(NamedTuple):
    """Consecutive rows of one request that are scored exactly; `first` in the forward, `start` its position."""

    first: int
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one request that list equally many pages, in G groups.

    request   line of the forward's page table
    first, rows  in the forward; start: position of the first row
    n         pages that each group lists beside its own; most: complete pages before the last row
    heads     int64 [G]         first row of each group, in the forward
    complete  int32 [G]         complete pages before its own
    group     int32 [rows]      group of each row
    lengths   int32 [rows]      keys of the listed pages that a row sees
    sampled   int64 [S]         the guard's samples, rows of the forward; sampled_group int64 [S] and sampled_lengths
                                int32 [S], the keys that they see
    samples   S; keys_sampled, own_keys, summaries: keys that samples see, keys of own pages, summaries scored
    """

    request: int
    first: int
    rows: int
    start: int
    n: int
    most: int
    heads: torch.Tensor
    complete: torch.Tensor
    group: torch.Tensor
    lengths: torch.Tensor
    sampled: torch.Tensor
    sampled_group: torch.Tensor
    sampled_lengths: torch.Tensor
    samples: int
    keys_sampled: int
    own_keys: int
    summaries: int

    @classmethod
    def of(cls, request: int, first: int, start: int, end: int, n: int, guard: Guard, device: Any) -> "Part":
        """Rows at positions start to end."""
        position = torch.arange(start, end)
        head = (torch.arange(start // GROUP, (end - 1) // GROUP + 1) * GROUP).clamp(min=start)
        sampled = guard.sampled(position).nonzero()[:, 0]
        complete = head // PAGE
        group = position // GROUP - start // GROUP

        def put(tensor: torch.Tensor, dtype: torch.dtype = torch.int32) -> torch.Tensor:
            return tensor.to(device, dtype, non_blocking=True)

        return cls(
            request=request,
            first=first,
            rows=end - start,
            start=start,
            n=n,
            most=(end - 1) // PAGE,
            heads=put(head - start + first, torch.int64),
            complete=put(complete),
            group=put(group),
            lengths=put(n * PAGE + position % PAGE + 1),
            sampled=put(sampled + first, torch.int64),
            sampled_group=put(group[sampled], torch.int64),
            sampled_lengths=put(sampled + start + 1),
            samples=len(sampled),
            keys_sampled=int((sampled + start + 1).sum()),
            own_keys=int((position % PAGE + 1).sum()),
            summaries=int(complete.sum()),
        )


def lay_out(
    request: int,
    first: int,
    start: int,
    end: int,
    shortlist: Shortlist,
    guard: Guard,
    topk: int,
    device: Any,
    min_saved: int = 0,
) -> tuple[list[Plain], list[Part]]:
    """The rows at positions start to end of a request, the first of them row `first` of the forward.

    All of them are plain if lists would not save `min_saved` scores a layer, or if there is but one row.
    """
    begin = start
    while begin < end and shortlist.lists_all(begin // PAGE, topk):
        begin = min(end, (begin // PAGE + 1) * PAGE)
    spans = []
    saved = 0
    at = begin
    while at < end:
        n, stop = shortlist.pages(at // PAGE, topk), at
        while stop < end and shortlist.pages(stop // PAGE, topk) == n:
            stop = min(end, (stop // PAGE + 1) * PAGE)
        spans.append((at, stop, n))
        saved += (stop - at) * ((at + stop) // 2 - n * PAGE)
        at = stop
    if saved < min_saved or end - start == 1:
        begin, spans = end, []
    exact = [Plain(first, start, begin - start)] if start < begin else []
    return exact, [Part.of(request, first + at - start, at, stop, n, guard, device) for at, stop, n in spans]
