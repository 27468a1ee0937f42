"""The torch consumer of a selection: gathers the selected keys and attends to them, in bounded slices."""

import torch

from sgl_indexcache.kernels.sparse_mla.cpu import sparse_mla
from sgl_indexcache.selection import Rows

# Gathered keys of about this many elements at a time stay in a core's cache between the two products.
# Chosen by bench/cpu_prefill.py --sweep (docs/results/cpu-prefill.md).
TILE_ELEMENTS = 1 << 21
# Slots are looked up for this many tiles together: so many small operations would take a third of a tile's time.
TILES_AT_ONCE = 16


def attend(
    q: torch.Tensor,
    kv: torch.Tensor,
    selection: torch.Tensor,
    slot_table: torch.Tensor,
    rows: Rows,
    value_dim: int,
    scale: float,
    scratch_bytes: int,
) -> torch.Tensor:
    """Output `[T, H, value_dim]` of queries `q [T, H, D]` over their selections.

    kv [slots, D] latent cache; selection int32 [T, k] request-relative, -1 padded; slot_table
    [requests, positions]. At most `scratch_bytes` of gathered float32 keys are alive at a time.
    """
    total, heads, dim = q.shape
    out = q.new_zeros(total, heads, value_dim)
    live = sum(span.rows for span in rows.spans)
    width = min(selection.shape[1], max((span.length for span in rows.spans), default=0))
    if width == 0:
        return out
    step = max(1, min(TILE_ELEMENTS, scratch_bytes // 4) // (width * dim))
    # One buffer for all tiles: fresh memory for each may cost more page faults than the gather itself takes.
    scratch = kv.new_empty(min(step, live) * width * dim)
    for begin in range(0, live, TILES_AT_ONCE * step):
        part = slice(begin, min(live, begin + TILES_AT_ONCE * step))
        picks = selection[part, :width].long()
        requests = rows.request[part].unsqueeze(1)
        slots = torch.where(picks < 0, -1, slot_table[requests, picks.clamp(min=0)].long())
        tiles = zip(*(torch.split(t, step) for t in (out[part], q[part], slots)), strict=True)
        for into, queries, tile_slots in tiles:
            into.copy_(sparse_mla(queries, kv, tile_slots, value_dim, scale, scratch))
    return out
