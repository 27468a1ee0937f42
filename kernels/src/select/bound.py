"""Triton search for the k-th of the scores in registers: guessed from mean and spread, then interpolated.

Every step counts the scores above a guess. Bisection of the 32 bits took 18 to 20 steps for indexer scores; the k-th of
a normal distribution, followed by the Illinois form of false position on the counts, takes 5 to 9
(docs/log.md). Three steps running that do not halve the interval are followed by one that
does, so that no distribution takes more than about four times the steps of a bisection.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import jit

INFINITE = tl.constexpr(0x7F800000)
"""The number of +inf."""
PATIENCE = tl.constexpr(3)


@jit
def _number(score):
    """int32 in the order of float32 scores; the two zeros are equal."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@jit
def _score(number):
    """float32 of its number; inverse of `_number`."""
    return tl.where(number < 0, number ^ 0x7FFFFFFF, number).to(tl.float32, bitcast=True)


@jit
def _merge(least, most, count, total, squares, least2, most2, count2, total2, squares2):
    return (
        tl.minimum(least, least2), tl.maximum(most, most2), count + count2, total + total2, squares + squares2
    )  # fmt: skip


@jit
def _gathered(least, most, count, total, squares):
    """Minimum, maximum and three sums of [R, W, C]: within threads, then warps, then between warps."""
    least, most, count, total, squares = tl.reduce((least, most, count, total, squares), 0, _merge)
    least, most, count, total, squares = tl.reduce((least, most, count, total, squares), 1, _merge)
    return tl.reduce((least, most, count, total, squares), 0, _merge)


@jit
def _quantile(share):
    """Standard deviations above its mean where a normal distribution has `share` of its mass above (Tukey's lambda)."""
    return 4.91 * (tl.exp2(0.14 * tl.log2(1.0 - share)) - tl.exp2(0.14 * tl.log2(share)))


@jit
def bound(scores, need, floor):
    """(low, least, room) of scores float32 [R, W, C], of which -inf are none and at least `need` are at least `floor`:
    chosen are all that are at least `least`, and the first `room` that equal `low`."""
    there = scores > float("-inf")
    finite = there & (scores < float("inf"))
    known = tl.where(finite, scores, 0.0)
    # One reduction for all: each costs a round through shared memory. Two counts share a number.
    least, most, counts, total, squares = _gathered(
        tl.where(there, scores, float("inf")), tl.where(finite, scores, float("-inf")),
        there.to(tl.int32) + (finite.to(tl.int32) << 16), known, known * known,
    )  # fmt: skip
    at_low = counts & 0xFFFF
    finites = (counts >> 16) & 0xFFFF
    at_high = at_low - finites
    over = at_high >= need
    # Numbers, so that there is one between any two that are not neighbours: at_low = count(>= low) >= need > at_high =
    # count(>= high).
    low = _number(tl.where(over, float("inf"), least))
    high = tl.where(over, INFINITE, _number(most)) + 1
    at_low = tl.where(over, at_high, at_low)
    at_high = tl.where(over, 0, at_high)

    mean = total / tl.maximum(finites, 1)
    spread = tl.sqrt(tl.maximum(squares / tl.maximum(finites, 1) - mean * mean, 0.0))
    share = tl.maximum(need - at_high, 1) / tl.maximum(finites + 1, 2).to(tl.float32)
    guess = _number(mean + spread * _quantile(tl.minimum(share, 0.999)))
    floor = _number(floor)
    excess = at_low - need + 0.5
    lack = need - at_high - 0.5
    side = 0
    stalled = 0
    while (at_low != need) & (low + 1 < high):
        # How many are not below the floor is counted only if the search comes there.
        middle = tl.minimum(tl.maximum(guess, tl.maximum(low + 1, floor)), high - 1)
        before = high.to(tl.uint32, bitcast=True) - low.to(tl.uint32, bitcast=True)
        count = tl.sum(tl.sum(tl.sum((scores >= _score(middle)).to(tl.int32), 0), 1), 0)
        enough = count >= need
        # The weight of an end that stays twice is halved, or it would stay for good.
        excess = tl.where(enough, count - need + 0.5, tl.where(side < 0, 0.5 * excess, excess))
        lack = tl.where(enough, tl.where(side > 0, 0.5 * lack, lack), need - count - 0.5)
        side = tl.where(enough, 1, -1)
        low = tl.where(enough, middle, low)
        at_low = tl.where(enough, count, at_low)
        high = tl.where(enough, high, middle)
        at_high = tl.where(enough, at_high, count)
        after = high.to(tl.uint32, bitcast=True) - low.to(tl.uint32, bitcast=True)
        stalled = tl.where(after > before // 2, stalled + 1, 0)
        bisect = stalled >= PATIENCE
        guess = _number(_score(low) + (_score(high) - _score(low)) * (excess / (excess + lack)))
        guess = tl.where(bisect, (low & high) + ((low ^ high) >> 1), guess)
        stalled = tl.where(bisect, 0, stalled)
    clean = at_low == need
    return _score(low), _score(tl.where(clean, low, high)), tl.where(clean, 0, need - at_high)
