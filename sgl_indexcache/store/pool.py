"""The memory of tail snapshots: slots of whole selections, allocated once within a budget of bytes."""

import torch

from sgl_indexcache.store.errors import StoreError

WINDOW = 64
"""Rows a snapshot holds at most: what SGLang computes again of a cached prompt at pages of 64."""

_BYTES = 4


def slot_bytes(layers: int, window: int, topk: int) -> int:
    """Bytes of one snapshot: for each Full layer and row the selection int32 [topk] and its margin float32."""
    return layers * window * (topk + 1) * _BYTES


def check_budget(budget_bytes: int, layers: int, window: int, topk: int) -> None:
    """Raise StoreError unless at least one snapshot fits into the budget."""
    need = slot_bytes(layers, window, topk)
    if budget_bytes < need:
        raise StoreError(
            f"store.snapshot_mib is too small: one snapshot of {window} rows and {layers} Full layers takes "
            f"{need / 2**20:.1f} MiB, the budget is {budget_bytes / 2**20:.1f} MiB; "
            f"set store.snapshot_mib to at least {-(-need // 2**20)}"
        )


class Pool:
    """Slots of `window` rows; plain tensors, no bookkeeping of who holds what.

    selections  int32 [layers, slots, window, topk], request-relative, -1 padded
    margins     float32 [layers, slots, window], see selection/known.py

    The memory is taken once; `configure` lays another number of layers over the same bytes. `pinned`: page-locked, for
    copies to and from a CUDA device that nothing waits for.

    Raises:
        StoreError: not even one snapshot fits into `budget_bytes`.
    """

    def __init__(self, budget_bytes: int, layers: int, window: int, topk: int, *, pinned: bool = False) -> None:
        self.window = window
        self.topk = topk
        self._words = budget_bytes // _BYTES
        check_budget(budget_bytes, layers, window, topk)
        self._memory = torch.empty(self._words, dtype=torch.int32, pin_memory=pinned)
        self.configure(layers)

    def configure(self, layers: int) -> None:
        """Lay slots for `layers` Full layers over the memory; what was in it is meaningless afterwards."""
        check_budget(self._words * _BYTES, layers, self.window, self.topk)
        self.layers = layers
        self.slots = self.slots_of(layers)
        rows = layers * self.slots * self.window
        self.selections = self._memory[: rows * self.topk].view(layers, self.slots, self.window, self.topk)
        margins = self._memory[rows * self.topk : rows * (self.topk + 1)]
        self.margins = margins.view(torch.float32).view(layers, self.slots, self.window)

    def slots_of(self, layers: int) -> int:
        """How many snapshots of that many Full layers the memory holds."""
        return self._words * _BYTES // slot_bytes(layers, self.window, self.topk)

    @property
    def used_bytes(self) -> int:
        """Bytes that the slots take of the budget."""
        return self.slots * slot_bytes(self.layers, self.window, self.topk)
