"""Which rows of a forward belong to which request, and how far each row may look back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Span(NamedTuple):
    """The consecutive rows of one request in a forward."""

    request: int
    """row of the slot table (SGLang's req_pool_idx)"""
    first: int
    """first row in the forward"""
    rows: int
    """number of rows, at least 1"""
    length: int
    """tokens of the request up to and including its last row"""


@dataclass(frozen=True, slots=True)
class Rows:
    """The row layout of one forward, shared by all its layers.

    request  int64 [T]  slot-table row of each token
    length   int64 [T]  keys that each token may look at: its position + 1; 0 for padding rows
    spans    the same, request by request, padding left out
    """

    request: torch.Tensor
    length: torch.Tensor
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, requests: Sequence[int], lengths: Sequence[int], new: Sequence[int], total: int) -> "Rows":
        """Layout of a forward in which request i has `new[i]` rows that end at `lengths[i]` tokens.

        `total` is the number of rows of the forward; rows past `sum(new)` are padding.
        """
        if sum(new) > total:
            raise ValueError(f"requests hold {sum(new)} rows, the forward has {total}")
        request = torch.zeros(total, dtype=torch.int64)
        length = torch.zeros(total, dtype=torch.int64)
        spans = []
        first = 0
        for index, last, rows in zip(requests, lengths, new, strict=True):
            if rows == 0:
                continue
            spans.append(Span(index, first, rows, last))
            request[first : first + rows] = index
            length[first : first + rows] = torch.arange(last - rows + 1, last + 1)
            first += rows
        return cls(request, length, tuple(spans))
