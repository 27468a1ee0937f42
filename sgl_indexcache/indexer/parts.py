"""How the rows of a CUDA prefill are cut: rows without a shortlist, and rows that list equally many pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import Guard
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.shortlist import GROUP


class Plain(NamedTuple):
    """Consecutive rows of one request that are scored exactly; `first` in the forward, `start` its position."""

    first: int
    start: int
    rows: int


class Rows(NamedTuple):
    """Queries fp8 [N, H, D] and gates fp32 [N, H] of some rows of a forward."""

    queries: torch.Tensor
    gates: torch.Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one request that list equally many pages, in G groups.

    request   line of the forward's page table
    first, rows  in the forward; start: position of the first row
    n         pages that each group lists beside its own; most: complete pages before the last row
    groups    G; samples: S, the guard's
    read      int32 [G + S]     rows of the forward: the first of each group, then the samples
    complete  int32 [G]         complete pages before each group's own
    group     int32 [rows]      group of each row
    lengths   int32 [rows]      keys of the listed pages that a row sees
    sampled_group, sampled_request  int32 [S]  group and request of each sample
    sampled_lengths  int32 [S]  keys that it sees
    keys_sampled, own_keys, summaries: keys that samples see, keys of own pages, summaries scored
    """

    request: int
    first: int
    rows: int
    start: int
    n: int
    most: int
    groups: int
    samples: int
    read: torch.Tensor
    complete: torch.Tensor
    group: torch.Tensor
    lengths: torch.Tensor
    sampled_group: torch.Tensor
    sampled_request: torch.Tensor
    sampled_lengths: torch.Tensor
    keys_sampled: int
    own_keys: int
    summaries: int

    @classmethod
    def of(cls, request: int, first: int, start: int, end: int, n: int, guard: Guard, device: torch.device) -> "Part":
        """Rows at positions start to end."""
        position = torch.arange(start, end)
        head = (torch.arange(start // GROUP, (end - 1) // GROUP + 1) * GROUP).clamp(min=start)
        sampled = guard.sampled(position).nonzero()[:, 0]
        complete = head // PAGE
        group = position // GROUP - start // GROUP
        tensors = {
            "read": torch.cat((head - start, sampled)) + first,
            "complete": complete,
            "group": group,
            "lengths": n * PAGE + position % PAGE + 1,
            "sampled_group": group[sampled],
            "sampled_request": torch.full_like(sampled, request),
            "sampled_lengths": sampled + start + 1,
        }
        return cls(
            request=request,
            first=first,
            rows=end - start,
            start=start,
            n=n,
            most=(end - 1) // PAGE,
            groups=len(head),
            samples=len(sampled),
            keys_sampled=int((sampled + start + 1).sum()),
            own_keys=int((position % PAGE + 1).sum()),
            summaries=int(complete.sum()),
            **dict(zip(tensors, send(list(tensors.values()), device), strict=True)),
        )

    def rows_of(self, queries: torch.Tensor, gates: torch.Tensor) -> tuple[Rows, Rows]:
        """The groups' first rows and the samples, of a forward's queries [T, H, D] and gates [T, H]."""
        # torch does not gather fp8 itself.
        read = queries.view(torch.uint8).index_select(0, self.read).view(queries.dtype)
        weights = gates.index_select(0, self.read)
        return Rows(read[: self.groups], weights[: self.groups]), Rows(read[self.groups :], weights[self.groups :])


def send(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """These int [N] on the device, as int32, in one copy that the host does not wait for."""
    # Each begins at a multiple of 16 bytes, as tensors of their own would.
    whole = torch.cat([pad(tensor.int(), (0, -len(tensor) % 4)) for tensor in tensors])
    if device.type == "cuda":
        whole = whole.pin_memory()
    at, found = 0, []
    whole = whole.to(device, non_blocking=True)
    for tensor in tensors:
        found.append(whole[at : at + len(tensor)])
        at += -(-len(tensor) // 4) * 4
    return found


def lay_out(
    request: int,
    first: int,
    start: int,
    end: int,
    shortlist: Shortlist,
    guard: Guard,
    topk: int,
    device: torch.device,
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
