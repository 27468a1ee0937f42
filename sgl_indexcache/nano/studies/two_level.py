"""Two-level scoring of one sequence in this process, by the objects that serve on the CPU."""

import torch

from sgl_indexcache.indexer.cpu.exact import Selector
from sgl_indexcache.indexer.cpu.two_level import CpuKernels
from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.selection import Inputs, Rows, Terms
from sgl_indexcache.store.page_records import PageRecords
from sgl_indexcache.telemetry.two_level import TwoLevelWork

CHUNK = 2048
"""Rows of a forward: the guard judges a context before each, as under a server with chunks of that size."""
BUDGET_BYTES = 256 << 20


class Sequence:
    """Two-level scoring of one sequence of `length` tokens; the guard samples one row in `every`.

    A study runs layer by layer through all chunks where a server runs chunk by chunk through all layers, so each layer
    has records of its own. What they count is added up in `work`.
    """

    def __init__(self, shortlist: Shortlist, length: int, floor: float, every: int) -> None:
        self.shortlist, self.work = shortlist, TwoLevelWork()
        pages, topk = -(-length // PAGE), NANO.index_topk
        self.layers = [
            TwoLevel(
                PageRecords([layer], pages, NANO.index_head_dim, "cpu"),
                CpuKernels(BUDGET_BYTES),
                shortlist,
                Guard(floor, every),
                topk,
            )
            for layer in range(NANO.num_hidden_layers)
        ]
        for layer in self.layers:
            layer.work = self.work

    def select(self, layer: int, q: torch.Tensor, gates: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Selections int32 [T, topk], -1 padded; q, gates [T, H, D], [T, H]; k [T, D]."""
        two_level, length = self.layers[layer], k.shape[0]
        index_k = torch.cat((k, k.new_zeros(-length % PAGE, k.shape[1])))
        page_table = torch.arange(len(index_k) // PAGE, dtype=torch.int32).unsqueeze(0)
        out = torch.full((length, NANO.index_topk), -1, dtype=torch.int32)
        for start in range(0, length, CHUNK):
            end = min(length, start + CHUNK)
            chunk = slice(start, end)
            inputs = Inputs(
                lambda rows, chunk=chunk: (q[chunk][rows], gates[chunk][rows]),  # type: ignore[misc]
                index_k,
                page_table,
                torch.zeros(end - start, dtype=torch.int32),
                torch.arange(start + 1, end + 1, dtype=torch.int32),
            )
            two_level.begin([end], [end - start], page_table, is_request=True)
            two_level.select(layer, inputs, Terms("positions", page_table), out[chunk])
        two_level.refresh()
        return out


def select_exactly(q: torch.Tensor, gates: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Exact selections int32 [T, topk], -1 padded; arguments as those of `Sequence.select`."""
    length = k.shape[0]
    slots = torch.arange(length, dtype=torch.int32).unsqueeze(0)
    rows = Rows.of([0], [length], [length], length)
    return Selector(NANO.index_topk)(lambda part: (q[part], gates[part]), k, slots, rows)
