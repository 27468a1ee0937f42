"""Per-request rows that a forward reads, and what they mean for its rows.

A forward finds its snapshots through tables indexed by SGLang's req_pool_idx alone, because that index is all that
an eager forward and a captured graph have in common. They are written before the forward, on its stream.
"""

from typing import NamedTuple

import torch


class Row(NamedTuple):
    """What one request's rows of the next forward read and write. Slots are -1 for none."""

    write_slot: int = -1
    write_first: int = 0
    """position of the request that is row 0 of `write_slot`"""
    read_slot: int = -1
    read_first: int = 0
    """position of the request that is row 0 of `read_slot`"""
    read_rows: int = 0
    """rows of `read_slot` that belong to the request's own tokens"""
    same_prefill: int = 0
    """1: the forward that wrote `read_slot` was this very one"""


class Layout(NamedTuple):
    """Rows of one forward against snapshots, int64; a flat index is slot * window + row of the slot.

    write_rows [W], write_flat [W]  rows of the forward that are kept, and where
    read_rows [R], read_flat [R]    rows of the forward whose selections are known, and where
    same_prefill bool [R]
    """

    rows: int
    write_rows: torch.Tensor
    write_flat: torch.Tensor
    read_rows: torch.Tensor
    read_flat: torch.Tensor
    same_prefill: torch.Tensor


class Tables:
    """int32 [requests, 6], one `Row` a request; requests without one say none."""

    def __init__(self, requests: int, window: int) -> None:
        self.window = window
        self.table = torch.tensor([Row()], dtype=torch.int32).repeat(requests, 1)
        self._written: list[int] = []

    def write(self, rows: dict[int, Row]) -> None:
        """The rows of the next forward's requests; every other request has none from now on."""
        self.table[self._written] = torch.tensor(Row(), dtype=torch.int32)
        self._written = list(rows)
        if rows:
            self.table[self._written] = torch.tensor(list(rows.values()), dtype=torch.int32)

    def row(self, request: int) -> Row:
        """One request's row."""
        return Row(*self.table[request].tolist())

    def lay_out(self, request: torch.Tensor, length: torch.Tensor) -> Layout:
        """Layout of a forward with rows of `request` int64 [T] at position `length - 1` (0 for padding), [T]."""
        write_slot, write_first, read_slot, read_first, read_rows, same_prefill = self.table[request].long().unbind(1)
        position = length - 1
        into = position - write_first
        write = ((length > 0) & (write_slot >= 0) & (into >= 0) & (into < self.window)).nonzero().squeeze(1)
        of = position - read_first
        read = ((length > 0) & (read_slot >= 0) & (of >= 0) & (of < read_rows)).nonzero().squeeze(1)
        return Layout(
            rows=int(length.shape[0]),
            write_rows=write,
            write_flat=(write_slot * self.window + into)[write],
            read_rows=read,
            read_flat=(read_slot * self.window + of)[read],
            same_prefill=same_prefill[read].bool(),
        )
