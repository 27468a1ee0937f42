"""Exact, deterministic selection on CUDA: reference.py's order over rows of logits, two levels deep."""

from dataclasses import dataclass

import torch
import triton

from sgl_indexcache.kernels.select.kernel import maxima_kernel, select_kernel

BLOCK = 16
"""Scores whose maximum is kept: what one warp of the score kernel holds of a page."""
BLOCKS_AT_ONCE = 128
"""Blocks whose maxima a program takes, where the score kernel did not."""
MAX_AT_ONCE = 32768
"""Numbers of a program's registers: 64 a thread of 16 warps."""
MAX_K = MAX_AT_ONCE // BLOCK
"""The largest k."""
TILE = 4096
"""Scores that are placed at a time."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How the selection kernel is cut: `warps` of a program, `registers` a thread may hold; None: the compiler's."""

    warps: int
    registers: int | None = None


def cut_of(scores: int) -> Cut:
    """The cut for programs that hold this many scores: 64 a thread, so that two or four fit a multiprocessor."""
    if scores > MAX_AT_ONCE // 2:
        return Cut(16)
    return Cut(8 if scores > MAX_AT_ONCE // 4 else 4, 128)


def select(
    scores: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    max_length: int | None = None,
    maxima: torch.Tensor | None = None,
    names: torch.Tensor | None = None,
    request: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    cut: Cut | None = None,
) -> torch.Tensor:
    """Positions int32 `[T, k]` of the k best of scores float32 `[T, W]` among the first lengths int32 `[T]` of each
    row: ascending, packed at the front, -1 padded; of equal scores the lower position wins.

    max_length  a bound of lengths known to the host; W if not given
    maxima      float32 [T, >= W / 16], the maximum of every 16 scores, computed here if not given
    cut         for measurements
    names       int32 [B, P] with request int32 [T]: give names[request, p // 64] * 64 + p % 64 for position p instead

    Columns past a row's length are never read as scores. 1 <= k <= 2048. NaN or -inf within a length is not
    supported.
    Never waits for the device. Raises ValueError for other k or dtypes.
    """
    rows, width = scores.shape
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k must be 1 to {MAX_K}, not {k}")
    if scores.dtype != torch.float32 or lengths.dtype != torch.int32:
        raise ValueError(f"scores must be float32 and lengths int32, not {scores.dtype} and {lengths.dtype}")
    if out is None:
        out = torch.empty(rows, k, dtype=torch.int32, device=scores.device)
    if out.shape != (rows, k) or out.dtype != torch.int32 or out.stride(1) != 1:
        raise ValueError(f"out must be int32 [{rows}, {k}] with unit stride in a row")
    if (names is None) != (request is None):
        raise ValueError("names need the request of each row")
    if rows == 0:
        return out
    # Rows within k are never searched: they share the kernel of the shortest that are.
    longest = max(width if max_length is None else max_length, k + 1)
    blocks = triton.cdiv(longest, BLOCK)
    if maxima is None and blocks > k:
        maxima = torch.empty(rows, blocks, dtype=torch.float32, device=scores.device)
        maxima_kernel[(rows, triton.cdiv(blocks, BLOCKS_AT_ONCE))](
            scores, lengths, maxima, scores.stride(0), maxima.stride(0), blocks, N=BLOCKS_AT_ONCE, BLOCK=BLOCK
        )
    wide = triton.next_power_of_2(k)
    lists = blocks > k
    listed = torch.empty(rows, wide if lists else 0, dtype=torch.int32, device=scores.device)
    # A row of few blocks is read whole.
    entries = (wide if lists else min(wide, triton.next_power_of_2(blocks))) * BLOCK
    held = min(MAX_AT_ONCE, max(2 * wide, triton.next_power_of_2(blocks)))
    cut = cut or cut_of(max(held, entries) if lists else entries)
    limit = {} if cut.registers is None else {"maxnreg": cut.registers}
    select_kernel[(rows,)](
        scores, scores if maxima is None else maxima, lengths,
        lengths if names is None else names, lengths if request is None else request, out, listed,
        scores.stride(0), 0 if maxima is None else maxima.stride(0),
        0 if names is None else names.stride(0), out.stride(0), k, int(names is not None),
        N1=held if lists else 1, N2=entries, KP=wide, TILE1=min(TILE, held) if lists else 1, TILE2=min(TILE, entries),
        BLOCK=BLOCK, LISTS=lists, WARPS=cut.warps, num_warps=cut.warps, **limit,
    )  # fmt: skip
    return out
