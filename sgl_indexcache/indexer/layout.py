"""How the rows of a forward are cut: rows that are scored exactly, and rows that list equally many pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.kernels.layout import PAGE


class ExactRows(NamedTuple):
    """Consecutive rows of one request that are scored exactly; `first` in the forward, `start` its position."""

    request: int
    first: int
    start: int
    rows: int


class Work(NamedTuple):
    """What scoring such rows takes beside their listed pages."""

    own_keys: int
    """keys of own pages"""
    summaries: int
    sampled_keys: int
    """keys that the guard's samples see"""


class SampleRows(NamedTuple):
    """The guard's samples among some rows, int32 [S] each: group, line of the page table, keys that each sees."""

    group: torch.Tensor
    request: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True, slots=True)
class ListedRows:
    """Consecutive rows of one request that list equally many pages, in G groups.

    request   line of the forward's page table
    first, rows  in the forward; start: position of the first row
    n         pages that each group lists beside its own
    read      int32 [G + S]  rows of the forward: the first of each group, then the samples
    complete  int32 [G]      complete pages before each group's own
    group     int32 [rows]   group of each row
    lengths   int32 [rows]   keys of the listed pages that a row sees
    """

    request: int
    first: int
    rows: int
    start: int
    n: int
    read: torch.Tensor
    complete: torch.Tensor
    group: torch.Tensor
    lengths: torch.Tensor
    samples: SampleRows
    work: Work

    @property
    def groups(self) -> int:
        """G."""
        return self.complete.shape[0]

    @property
    def max_complete(self) -> int:
        """Complete pages before the last row."""
        pages: int = (self.start + self.rows - 1) // PAGE
        return pages

    @property
    def exact(self) -> ExactRows:
        """The same rows, scored exactly."""
        return ExactRows(self.request, self.first, self.start, self.rows)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which rows have lists, and how they are cut; the last four are the device's, see kernels.py.

    min_saved  scores a layer that lists must save a request in a forward
    """

    shortlist: Shortlist
    guard: Guard
    topk: int
    min_saved: int
    group: int
    min_rows: int
    max_rows: int

    def lay_out(
        self, request: int, first: int, start: int, end: int, device: torch.device
    ) -> tuple[list[ExactRows], list[ListedRows]]:
        """The rows at positions start to end of a request, the first of them row `first` of the forward."""
        begin = start
        while begin < end and self.shortlist.lists_all(begin // PAGE, self.topk):
            begin = min(end, (begin // PAGE + 1) * PAGE)
        spans = list(self._spans(begin, end))
        saved = sum((stop - at) * ((at + stop) // 2 - n * PAGE) for at, stop, n in spans)
        if saved < self.min_saved or end - start < self.min_rows:
            begin, spans = end, []
        exact = [ExactRows(request, first, start, begin - start)] if start < begin else []
        cut = [
            (part, min(stop, part + self.max_rows), n)
            for at, stop, n in spans
            for part in range(at, stop, self.max_rows)
        ]
        return exact, [self._listed(request, first + at - start, at, stop, n, device) for at, stop, n in cut]

    def _spans(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """Positions begin to end, cut where the number of listed pages changes: start, end, number."""
        spans = []
        while begin < end:
            n, stop = self.shortlist.pages(begin // PAGE, self.topk), begin
            while stop < end and self.shortlist.pages(stop // PAGE, self.topk) == n:
                stop = min(end, (stop // PAGE + 1) * PAGE)
            spans.append((begin, stop, n))
            begin = stop
        return spans

    def _listed(self, request: int, first: int, start: int, end: int, n: int, device: torch.device) -> ListedRows:
        """Rows at positions start to end."""
        position = torch.arange(start, end)
        head = (torch.arange(start // self.group, (end - 1) // self.group + 1) * self.group).clamp(min=start)
        sampled = self.guard.sampled(position).nonzero()[:, 0]
        complete = head // PAGE
        group = position // self.group - start // self.group
        on_host = [
            torch.cat((head - start, sampled)) + first,
            complete,
            group,
            n * PAGE + position % PAGE + 1,
            group[sampled],
            torch.full_like(sampled, request),
            sampled + start + 1,
        ]
        read, on_device, groups, lengths, *samples = send(on_host, device)
        work = Work(int((position % PAGE + 1).sum()), int(complete.sum()), int((sampled + start + 1).sum()))
        return ListedRows(
            request, first, end - start, start, n, read, on_device, groups, lengths, SampleRows(*samples), work
        )


def send(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """These int [N] on the device, as int32, in one copy that the host does not wait for."""
    # Each begins at a multiple of 16 bytes, as tensors of their own would.
    whole = torch.cat([pad(tensor.int(), (0, -len(tensor) % 4)) for tensor in tensors])
    if device.type == "cuda":
        whole = whole.pin_memory()
    at, parts = 0, []
    whole = whole.to(device, non_blocking=True)
    for tensor in tensors:
        parts.append(whole[at : at + len(tensor)])
        at += -(-len(tensor) // 4) * 4
    return parts
