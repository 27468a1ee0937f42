"""Triton kernels of the selection: first the k best blocks of keys, then the k best keys of those blocks.

Let blocks be ordered as keys are, by (maximum descending, position ascending). Every one of the k best keys lies in
one of the k best blocks: a key of any other block has at least k keys before it in the order, one from each of them.
So two selections, of S / BLOCK maxima and of k * BLOCK scores, stand for one of S, and the row is read in part.

Each is a bisection of the value by counting, over numbers that stay in registers; no atomics. It ends as soon as
exactly k numbers are above the bound; else the bound is the k-th number, and its first equals fill the rest.
"""

import triton
import triton.language as tl

PAGE = tl.constexpr(64)
NONE = tl.constexpr(-(2**31))
"""Below every score's number: no candidate."""
MOST = tl.constexpr(2**31 - 1)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _ordered(score):  # type: ignore[no-untyped-def]
    """int32 in the order of float32 scores; the two zeros are equal."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _bound(numbers, need, floor):  # type: ignore[no-untyped-def]
    """(low, least, room) of numbers int32 [N], at least `need` of them at least floor and not NONE: chosen are all that
    are at least `least`, and the first `room` that equal `low`."""
    low = tl.maximum(tl.min(tl.where(numbers == NONE, MOST, numbers), 0), floor)
    high = tl.max(numbers, 0) + 1
    at_low = tl.sum((numbers >= low).to(tl.int32), 0)
    at_high = 0
    # at_low = count(>= low) >= need > at_high = count(>= high)
    while (at_low != need) & (low + 1 < high):
        middle = (low & high) + ((low ^ high) >> 1)
        count = tl.sum((numbers >= middle).to(tl.int32), 0)
        enough = count >= need
        low = tl.where(enough, middle, low)
        at_low = tl.where(enough, count, at_low)
        high = tl.where(enough, high, middle)
        at_high = tl.where(enough, at_high, count)
    clean = at_low == need
    return low, tl.where(clean, low, high), tl.where(clean, 0, need - at_high)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _place(numbers, low, least, room, above, equal):  # type: ignore[no-untyped-def]
    """Of the next numbers in position order: whether each is chosen and where it goes, then `above` and `equal`, the
    counts so far of numbers of at least `least` and of numbers that equal `low` below it."""
    is_above = (numbers >= least).to(tl.int32)
    is_equal = ((numbers == low) & (low < least)).to(tl.int32)
    # Both counts in one scan: fewer than 2^16 each.
    upto = tl.cumsum(is_above + (is_equal << 16), 0)
    aboves = above + (upto & 0xFFFF) - is_above
    equals = equal + ((upto >> 16) & 0xFFFF) - is_equal
    chosen = (is_above > 0) | ((is_equal > 0) & (equals < room))
    return (
        chosen, aboves + tl.minimum(equals, room), above + tl.sum(is_above, 0), equal + tl.sum(is_equal, 0)
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _maxima_of(entry, maxima, out, held, begin, blocks):  # type: ignore[no-untyped-def]
    """Blocks of entries, and their maxima as numbers: `held` blocks that `out` lists, then those from `begin` on."""
    block = tl.where(entry < held, tl.load(out + entry, mask=entry < held, other=0), begin + entry - held)
    there = block < blocks
    return block, tl.where(there, _ordered(tl.load(maxima + block, mask=there, other=0.0)), NONE)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _scores_of(entry, logits, out, n, k, listed, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Positions of entries, and their scores as numbers: the keys of the blocks that `out` lists, or of all."""
    block = entry // BLOCK
    block = tl.where(listed, tl.load(out + block, mask=listed & (block < k), other=0), block)
    position = block * BLOCK + entry % BLOCK
    there = (entry < k * BLOCK) & (position < n)
    return position, tl.where(there, _ordered(tl.load(logits + position, mask=there, other=0.0)), NONE)


@triton.jit(do_not_specialize=["names_stride", "k"])  # type: ignore[untyped-decorator, unused-ignore]
def select_kernel(  # type: ignore[no-untyped-def]
    logits, maxima, lengths, names, request, out, scratch,
    logits_stride, maxima_stride, names_stride, out_stride, scratch_stride, k,
    N1: tl.constexpr, N2: tl.constexpr, KP: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    NAMED: tl.constexpr,
):  # fmt: skip
    """Program t: row t. N1 > k maxima at a time, N2 scores (k * BLOCK or the whole row), KP >= k; powers of two.

    Numbers are held in registers while the bound is sought, and read once more, TILE at a time, to be placed.
    scratch int32 [T, k] holds the best blocks so far, in ascending order.
    """
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row)
    logits += row * logits_stride
    maxima += row * maxima_stride
    out += row * out_stride
    scratch += row * scratch_stride
    if NAMED:
        names += tl.load(request + row).to(tl.int64) * names_stride
    if n <= k:
        every = tl.arange(0, KP)
        value = every
        if NAMED:
            value = tl.load(names + every // PAGE, mask=every < n, other=0) * PAGE + every % PAGE
        tl.store(out + every, tl.where(every < n, value, -1), mask=every < k)
    else:
        blocks = (n + BLOCK - 1) // BLOCK
        listed = blocks > k
        floor = k * 0 + NONE
        if listed:
            # Maxima that do not fit come in several rounds, each with the best of those before it.
            held = 0
            begin = 0
            while begin < blocks:
                _, tops = _maxima_of(tl.arange(0, N1), maxima, scratch, held, begin, blocks)
                low, least, room = _bound(tops, k, floor)
                above = 0
                equal = 0
                for first in range(0, tl.minimum(N1, blocks - begin + held), TILE):
                    block, top = _maxima_of(first + tl.arange(0, TILE), maxima, scratch, held, begin, blocks)
                    top = tl.where(first + tl.arange(0, TILE) < N1, top, NONE)
                    keep, place, above, equal = _place(top, low, least, room, above, equal)
                    # What a tile writes lies before what the next one reads.
                    tl.debug_barrier()
                    tl.store(scratch + place, block, mask=keep)
                tl.debug_barrier()
                begin += N1 - held
                held = k
                # The k best blocks have a key each that is no worse than the k-th of their maxima.
                floor = low
        _, scores = _scores_of(tl.arange(0, N2), logits, scratch, n, k, listed, BLOCK)
        low, least, room = _bound(scores, k, floor)
        above = 0
        equal = 0
        for first in range(0, tl.minimum(k, blocks) * BLOCK, TILE):
            position, score = _scores_of(first + tl.arange(0, TILE), logits, scratch, n, k, listed, BLOCK)
            keep, place, above, equal = _place(score, low, least, room, above, equal)
            value = position
            if NAMED:
                value = tl.load(names + position // PAGE, mask=keep, other=0) * PAGE + position % PAGE
            tl.store(out + place, value, mask=keep)


@triton.jit(do_not_specialize=["width"])  # type: ignore[untyped-decorator, unused-ignore]
def maxima_kernel(  # type: ignore[no-untyped-def]
    logits, lengths, maxima, logits_stride, maxima_stride, width, N: tl.constexpr, BLOCK: tl.constexpr
):
    """Program (t, c): the maxima of blocks c * N ... of row t, as far as it is valid."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.load(lengths + row)
    block = tl.program_id(1) * N + tl.arange(0, N)
    if tl.program_id(1) * N * BLOCK < n:
        position = block[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        score = tl.load(logits + row * logits_stride + position, mask=position < n, other=float("-inf"))
        tl.store(maxima + row * maxima_stride + block, tl.max(score, 1), mask=block < width)
