"""Two-level scoring of one sequence in this process, by the objects that serve on the CPU."""

import torch

from sgl_indexcache.indexer.exact import Selector
from sgl_indexcache.indexer.rows import Rows
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import Guard, TwoLevel
from sgl_indexcache.kernels.shortlist import PAGE
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.store.pages import Pages


def two_level_of(shortlist: Shortlist, length: int, floor: float, every: int) -> TwoLevel:
    """Empty records for one sequence of `length` tokens; the guard samples one row in `every`."""
    pages = Pages(range(NANO.num_hidden_layers), -(-length // PAGE) * PAGE, NANO.index_head_dim, 1, length)
    return TwoLevel(pages, shortlist, Guard(floor, every))


def select(
    two_level: TwoLevel | None, layer: int, q: torch.Tensor, gates: torch.Tensor, k: torch.Tensor
) -> torch.Tensor:
    """Selections int32 [T, topk], -1 padded, of a whole sequence; layers come in order.

    two_level  None scores exactly
    q, gates   [T, H, D], [T, H]
    k          [T, D]
    """
    length = k.shape[0]
    rows = Rows.of([0], [length], [length], length)
    slots = torch.arange(length, dtype=torch.int32).unsqueeze(0)
    selector = Selector(NANO.index_topk)
    if two_level is None:
        return selector(lambda part: (q[part], gates[part]), k, slots, rows)
    if layer == 0:
        two_level.pages.begin(rows)
    whole_pages = torch.cat((k, k.new_zeros(-length % PAGE, k.shape[1])))
    return two_level.select(layer, selector, lambda part: (q[part], gates[part]), whole_pages, slots, rows)
