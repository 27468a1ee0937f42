"""Triton kernels of the selection: first the k best blocks of keys, then the k best keys of those blocks.

Let blocks be ordered as keys are, by (maximum descending, position ascending). Every one of the k best keys lies in
one of the k best blocks: a key of any other block has at least k keys before it in the order, one from each of them.
So two selections, of S / BLOCK maxima and of k * BLOCK scores, stand for one of S, and the row is read in part.

Each is a search of the k-th score (bound.py) by counting, over scores that stay in registers; no atomics. It ends as
soon as exactly k numbers are above the bound; else the bound is the k-th score, and its first equals fill the rest.

Scores are tensors [R, W, C] in row-major order: C for the lanes of a warp, W for the warps, R within a thread.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import PAGE, jit, jit_with
from sgl_indexcache.kernels.select.bound import bound

LANES = tl.constexpr(128)
"""Numbers that the lanes of a warp read at a time, 16 bytes each."""


@jit
def _shaped(x, WARPS: tl.constexpr):
    """[R, W, C] of [N], N a power of two."""
    c: tl.constexpr = min(x.shape[0], LANES)
    w: tl.constexpr = min(WARPS, x.shape[0] // c)
    return tl.reshape(x, (x.shape[0] // (c * w), w, c))


@jit
def _place(scores, low, least, room, above, equal):
    """Where each of the next scores [R, W, C] goes, int64 [R * W * C], -1 if it is not chosen; then `above` and
    `equal`, the counts so far of scores of at least `least` and of scores that equal `low` below it."""
    is_above = (scores >= least).to(tl.int32)
    is_equal = ((scores == low) & (room > 0)).to(tl.int32)
    # Both counts in one: fewer than 2^16 each.
    both = is_above + (is_equal << 16)
    piece = tl.ravel(tl.sum(both, 2))
    before = tl.reshape(tl.cumsum(piece, 0) - piece, (scores.shape[0], scores.shape[1]))
    upto = tl.cumsum(both, 2) - both + before[:, :, None]
    equals = equal + (upto >> 16)
    chosen = (is_above > 0) | ((is_equal > 0) & (equals < room))
    place = tl.where(chosen, above + (upto & 0xFFFF) + tl.minimum(equals, room), -1)
    all = tl.sum(piece, 0)
    # Of 64 bits, so that the compiler hands it to the threads that store as 32 bits, before it is address and mask.
    return tl.ravel(place).to(tl.int64), above + (all & 0xFFFF), equal + (all >> 16)


@jit
def _maxima_of(entry, maxima, out, held, begin, blocks):
    """Blocks of entries, and their maxima: `held` blocks that `out` lists, then those from `begin` on."""
    block = tl.where(entry < held, tl.load(out + entry, mask=entry < held, other=0), begin + entry - held)
    return block, tl.load(maxima + block, mask=block < blocks, other=float("-inf"))


@jit
def _scores_of(entry, logits, out, n, k, listed, BLOCK: tl.constexpr, LISTS: tl.constexpr):
    """Positions of entries, and their scores: the keys of the blocks that `out` lists, or of all."""
    position = entry
    there = entry < n
    if LISTS:
        block = entry // BLOCK
        block = tl.where(listed, tl.load(out + block, mask=listed & (block < k), other=0), block)
        position = block * BLOCK + entry % BLOCK
        there = (entry < k * BLOCK) & (position < n)
    return position, tl.load(logits + position, mask=there, other=float("-inf"))


@jit_with(
    do_not_specialize=["maxima_stride", "names_stride", "out_stride", "k", "named"],
    do_not_specialize_on_alignment=["lengths", "names", "request", "out"],
)
def select_kernel(
    logits, maxima, lengths, names, request, out, scratch,
    logits_stride, maxima_stride, names_stride, out_stride, k, named,
    N1: tl.constexpr, N2: tl.constexpr, KP: tl.constexpr, TILE1: tl.constexpr, TILE2: tl.constexpr,
    BLOCK: tl.constexpr, LISTS: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Program t: row t. N1 > k maxima at a time, N2 scores (k * BLOCK or the whole row), KP >= k; powers of two.

    Scores are held in registers while the bound is sought, and read once more, a TILE at a time, to be placed.
    scratch int32 [T, KP] holds the best blocks so far, in ascending order; without LISTS every row is read whole.
    """
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row)
    logits += row * logits_stride
    maxima += row * maxima_stride
    out += row * out_stride
    scratch += row * KP
    every = tl.arange(0, KP)
    if n <= k:
        tl.store(out + every, tl.where(every < n, every, -1), mask=every < k)
    else:
        blocks = (n + BLOCK - 1) // BLOCK
        listed = blocks > k
        floor = k * 0.0 - float("inf")
        if LISTS:  # noqa: SIM102, a constant: nothing of this is compiled without
            if listed:
                # Maxima that do not fit come in several rounds, each with the best of those before it.
                held = 0
                begin = 0
                while begin < blocks:
                    _, tops = _maxima_of(tl.arange(0, N1), maxima, scratch, held, begin, blocks)
                    low, least, room = bound(_shaped(tops, WARPS), k, floor)
                    above = 0
                    equal = 0
                    for first in range(0, tl.minimum(N1, blocks - begin + held), TILE1):
                        entry = first + tl.arange(0, TILE1)
                        block, top = _maxima_of(entry, maxima, scratch, held, begin, blocks)
                        top = tl.where(entry < N1, top, float("-inf"))
                        place, above, equal = _place(_shaped(top, WARPS), low, least, room, above, equal)
                        # What a tile writes lies before what the next one reads.
                        tl.debug_barrier()
                        tl.store(scratch + place, block, mask=place >= 0)
                    tl.debug_barrier()
                    begin += N1 - held
                    held = k
                    # The k best blocks have a key each that is no worse than the k-th of their maxima.
                    floor = low
        _, scores = _scores_of(tl.arange(0, N2), logits, scratch, n, k, listed, BLOCK, LISTS)
        low, least, room = bound(_shaped(scores, WARPS), k, floor)
        above = 0
        equal = 0
        for first in range(0, tl.minimum(k, blocks) * BLOCK, TILE2):
            entry = first + tl.arange(0, TILE2)
            position, score = _scores_of(entry, logits, scratch, n, k, listed, BLOCK, LISTS)
            place, above, equal = _place(_shaped(score, WARPS), low, least, room, above, equal)
            tl.store(out + place, position, mask=place >= 0)
    if named != 0:
        # Afterwards, since an eighth of the scores at most is chosen.
        names += tl.load(request + row).to(tl.int64) * names_stride
        tl.debug_barrier()
        chosen = tl.load(out + every, mask=every < k, other=-1)
        page = tl.load(names + chosen // PAGE, mask=chosen >= 0, other=0)
        tl.store(out + every, tl.where(chosen < 0, -1, page * PAGE + chosen % PAGE), mask=every < k)


@jit_with(do_not_specialize=["width"])
def maxima_kernel(logits, lengths, maxima, logits_stride, maxima_stride, width, N: tl.constexpr, BLOCK: tl.constexpr):
    """Program (t, c): the maxima of blocks c * N ... of row t, as far as it is valid."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row)
    block = tl.program_id(1) * N + tl.arange(0, N)
    if tl.program_id(1) * N * BLOCK < n:
        position = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        score = tl.load(logits + row * logits_stride + position, mask=position < n, other=float("-inf"))
        tl.store(maxima + row * maxima_stride + block, tl.max(score, 1), mask=block < width)
