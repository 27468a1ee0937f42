"""Rules that choose the pages of a shortlist, as candidates for two-level scoring; measured by two_level_study.

A rule sees R rows of one layer and gives every unit (a page of 64 keys, or a part of one) a worth; the units that are
worth most are listed. The worth comes from a signal, which reads what is kept of a unit, perhaps from a hint, what the
Full layer before selected for the same row, and perhaps from several rows together. With the index score
I(q, k) = sum over heads h of w[h] * relu(q[h] . k):

    mean              I(q, mean key)
    halves, quarters  max over j of I(q, mean of the j-th 32 or 16 keys)
    outlier, far8     max(I(q, mean key), I(q, x)), x the key farthest from the mean or the mean of the 8 farthest
    clusters          max over 2 of I(q, centroid), the keys parted by distance instead of order
    minmax            sum over h of w[h] * relu(b[h]), b[h] >= q[h] . k for all keys by their range in every column
                      (b[h] <= q[h] . k where w[h] < 0)
    smooth hint       (signal - its mean) / its deviation + a * log(1 + count)
    half, quarter ..  that part of the list goes to the units with the highest counts (hint) or with the best outlier,
                      the rest to the best by signal

count: selected positions in the unit. Bytes are those of what a rule keeps of a page and Full layer (KEY_BYTES a vector
in fp8 with its scale); 14 for the guard and for validity come on top.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from sgl_indexcache.indexer.shortlist import VOTED
from sgl_indexcache.kernels.score import score
from sgl_indexcache.kernels.shortlist import PAGE, pack_summary, unpack_summary
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.store.digest import WIDTH

KEY_BYTES = NANO.index_head_dim + 4
KEY_BYTES_4BIT = NANO.index_head_dim // 2 + 4
DIGEST_BYTES = 4 * WIDTH
FAR = 8
ROUNDS = 4
"""Of moving keys between two clusters."""
FORCED = 1e30


class Seen(NamedTuple):
    """What a rule may look at: R rows, the U units of the context up to the last of them, u keys in each.

    q [R, H, D], gates [R, H]; keys [U, u, D]; allowed bool [R, U], complete pages before the row's own
    hint     [R, U] what the Full layer before selected in each unit for the same row; None: there is none
    listed   units of a list
    scores   [R, U, u] exact index scores; held [R, U] what the exact selection has in each unit: no rule that can
             be served knows them
    """

    q: torch.Tensor
    gates: torch.Tensor
    keys: torch.Tensor
    allowed: torch.Tensor
    hint: torch.Tensor | None
    listed: int
    scores: torch.Tensor
    held: torch.Tensor | None


Signal = Callable[[Seen], torch.Tensor]
"""Worth float32 [R, U]."""
Kept = Callable[[torch.Tensor], torch.Tensor]
"""Vectors [..., D] as they come back from a record."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How units are chosen.

    signal       None scores every key
    vectors      that the first level scores of each page
    record       bytes kept of a page
    unit         keys of a unit
    voted        pages forced in by the digests of the two pages before (of the rule's own selections)
    quotas       other signals, and the part of the list that goes to the best by each of them, if above 0
    hint         weight of a smooth hint; 0: none
    fade         what is left of older layers' counts; 0: only the last Full layer hints
    anchors      layers scored exactly
    even         list less, so that with the anchors the layers take their share on average
    rows         consecutive rows with one list
    together     of such rows: "first" (its list), "max" or "sum" of their worths, each centred and scaled by its
                 deviation, "total" (sum of the plain worths)
    knows        whether the exact selection is used
    """

    signal: Signal | None
    vectors: float = 1
    record: int = KEY_BYTES
    unit: int = PAGE
    voted: int = 0
    quotas: tuple[tuple[Signal, float], ...] = ()
    hint: float = 0.0
    fade: float = 0.0
    anchors: tuple[int, ...] = ()
    even: bool = False
    rows: int = 1
    together: str = "first"
    knows: bool = False

    def worth(self, seen: Seen) -> torch.Tensor:
        """Worth float32 [R, U]; -inf where not allowed."""
        assert self.signal is not None
        found = self.signal(seen)
        if self.hint:
            found = standardised(found, seen.allowed) + self.hint * counts(seen).log1p()
        found = shared(found, seen.allowed, self.rows, self.together)
        for signal, part in self.quotas:
            other = shared(signal(seen), seen.allowed, self.rows, self.together).masked_fill(~seen.allowed, 0.0)
            best = other.topk(min(int(part * seen.listed), other.shape[1]), 1)
            forced = torch.zeros_like(other).scatter_(1, best.indices, best.values) > 0
            found = found.masked_fill(forced, FORCED)
        return found.masked_fill(~seen.allowed, float("-inf"))

    def pages(self, share: float, length: int, layers: int) -> int:
        """Pages listed, so that the last row of `length` tokens scores `share` of its keys, first level included."""
        if self.even:
            share = (share * layers - len(self.anchors)) / (layers - len(self.anchors))
        return int((share * length - self.vectors * length / PAGE - PAGE / 2) // PAGE)

    def cost(self, pages: int, length: int, layers: int) -> float:
        """Part of its keys that the last row scores, first level included, mean over layers."""
        if self.signal is None:
            return 1.0
        vectors = self.vectors / (self.rows if self.together == "first" else 1)
        complete = (length - 1) // PAGE
        part = (min(pages, complete) * PAGE + (length - 1) % PAGE + 1 + vectors * complete) / length
        exact = len(self.anchors)
        return float((exact + (layers - exact) * part) / layers)


def standardised(worth: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Worth less its mean over the allowed units of each row, by its deviation; 0 elsewhere."""
    count = allowed.sum(1, keepdim=True).clamp(min=1)
    centred = worth - worth.masked_fill(~allowed, 0.0).sum(1, keepdim=True) / count
    centred = centred.masked_fill(~allowed, 0.0)
    return centred / (centred.square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-12)


def shared(worth: torch.Tensor, allowed: torch.Tensor, rows: int, together: str) -> torch.Tensor:
    """The same worth for `rows` consecutive rows each, which stand in one page."""
    if rows == 1:
        return worth
    if together == "first":
        return worth[::rows].repeat_interleave(rows, 0)
    if together != "total":
        worth = standardised(worth, allowed)
    groups = worth.view(-1, rows, worth.shape[1])
    one = groups.amax(1) if together == "max" else groups.sum(1)
    return one.repeat_interleave(rows, 0)


# --- what is kept of a unit ---


def fp8(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors as a summary keeps them."""
    found: torch.Tensor = unpack_summary(pack_summary(vectors))
    return found


def four_bits(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in whole numbers of -7 to 7 times one scale each."""
    scale = (vectors.abs().amax(-1, keepdim=True) / 7).clamp(min=1e-30)
    return (vectors / scale).round() * scale


def as_given(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in float32."""
    return vectors


def best_of(seen: Seen, vectors: torch.Tensor) -> torch.Tensor:
    """Highest score [R, U] among each unit's vectors [U, V, D]."""
    count = vectors.shape[1]
    scores: torch.Tensor = score(seen.q, vectors.flatten(0, 1), seen.gates)
    return scores.view(seen.q.shape[0], -1, count).amax(2)


def means(parts: int, kept: Kept = fp8) -> Signal:
    """Best of the means of `parts` equal parts of a unit."""

    def signal(seen: Seen) -> torch.Tensor:
        keys = seen.keys
        mean = keys.view(keys.shape[0], parts, -1, keys.shape[2]).mean(2)
        return best_of(seen, kept(mean))

    return signal


def far(outliers: int, of: int, kept: Kept = fp8) -> Signal:
    """Best of the mean and of `outliers` means of `of` keys each, those farthest from the mean first."""

    def signal(seen: Seen) -> torch.Tensor:
        keys = seen.keys
        mean = keys.mean(1, keepdim=True)
        order = (keys - mean).square().sum(2).topk(outliers * of, 1).indices
        found = keys.gather(1, order.unsqueeze(2).expand(-1, -1, keys.shape[2]))
        found = found.view(keys.shape[0], outliers, of, -1).mean(2)
        return best_of(seen, torch.cat((fp8(mean), kept(found)), 1))

    return signal


def outlier(seen: Seen) -> torch.Tensor:
    """The key farthest from the mean alone."""
    keys = seen.keys
    at = torch.arange(keys.shape[0], device=keys.device)
    farthest = (keys - keys.mean(1, keepdim=True)).square().sum(2).argmax(1)
    return best_of(seen, fp8(keys[at, farthest].unsqueeze(1)))


def counts(seen: Seen) -> torch.Tensor:
    """The hint's."""
    return torch.zeros_like(seen.allowed, dtype=torch.float32) if seen.hint is None else seen.hint


def clusters(seen: Seen) -> torch.Tensor:
    """Best of two centroids; the first ones are the key farthest from the mean and the key farthest from that."""
    keys = seen.keys
    at = torch.arange(keys.shape[0], device=keys.device)
    centres = keys.mean(1, keepdim=True)
    for _ in range(2):
        farthest = (keys - centres[:, -1:]).square().sum(2).argmax(1)
        centres = torch.cat((centres, keys[at, farthest].unsqueeze(1)), 1)
    centres = centres[:, 1:]
    for _ in range(ROUNDS):
        nearest = torch.cdist(keys, centres).argmin(2)
        member = torch.stack((nearest == 0, nearest == 1), 1).float()
        count = member.sum(2, keepdim=True)
        centres = torch.where(count > 0, member @ keys / count.clamp(min=1), centres)
    return best_of(seen, fp8(centres))


def bounds(seen: Seen) -> torch.Tensor:
    """Bound of the score of any key, head by head, from the columns' ranges (rounded to fp8, not outwards)."""
    low, high = fp8(seen.keys.amin(1)), fp8(seen.keys.amax(1))
    rows, heads, dim = seen.q.shape
    up, down = seen.q.relu().view(-1, dim), (-seen.q).relu().view(-1, dim)
    above = (up @ high.T - down @ low.T).relu_().view(rows, heads, -1)
    below = (up @ low.T - down @ high.T).relu_().view(rows, heads, -1)
    gates = seen.gates.unsqueeze(1)
    return (gates.relu() @ above - (-gates).relu() @ below).squeeze(1)


# --- not affordable: what better signals could reach ---


def held(seen: Seen) -> torch.Tensor:
    """Positions of the exact selection."""
    assert seen.held is not None
    return seen.held


def true_maximum(seen: Seen) -> torch.Tensor:
    """Highest exact score."""
    return seen.scores.amax(2)


def true_mean(seen: Seen) -> torch.Tensor:
    """Mean exact score."""
    return seen.scores.mean(2)


MEAN = Rule(means(1))
OUTLIER = Rule(far(1, 1), 2, 2 * KEY_BYTES)
HALVES = Rule(means(2), 2, 2 * KEY_BYTES)


UNITS32 = Rule(means(1), 2, 2 * KEY_BYTES, unit=32)
HINT = replace(MEAN, anchors=(0,))
"""To be given hints: a first layer that is exact."""
EIGHTH = replace(HINT, quotas=((counts, 1 / 8),))
OUTLIER_EIGHTH = replace(OUTLIER, signal=means(1), quotas=((outlier, 1 / 8),))
BOTH = replace(OUTLIER_EIGHTH, anchors=(0,), quotas=((counts, 1 / 8), (outlier, 1 / 8)))

RULES: dict[str, Rule] = {
    "exact": Rule(None, 0, 0),
    "best": Rule(held, 1, 0, knows=True),
    "best-4": Rule(held, 1, 0, rows=4, together="total", knows=True),
    "true-max": Rule(true_maximum, 1, 0),
    "true-mean": Rule(true_mean, 1, 0),
    "mean": MEAN,
    "mean-fp32": Rule(means(1, as_given), 1, 4 * NANO.index_head_dim),
    "served": replace(MEAN, voted=VOTED, record=KEY_BYTES + DIGEST_BYTES),
    "mean-first4": replace(MEAN, rows=4),
    "mean-max4": replace(MEAN, rows=4, together="max"),
    "mean-sum4": replace(MEAN, rows=4, together="sum"),
    "mean-sum16": replace(MEAN, rows=16, together="sum"),
    "mean-sum64": replace(MEAN, rows=64, together="sum"),
    "units32": UNITS32,
    "units16": Rule(means(1), 4, 4 * KEY_BYTES, unit=16),
    "halves": HALVES,
    "quarters": Rule(means(4), 4, 4 * KEY_BYTES),
    "halves-4bit": Rule(means(2, four_bits), 2, 2 * KEY_BYTES_4BIT),
    "quarters-4bit": Rule(means(4, four_bits), 4, 4 * KEY_BYTES_4BIT),
    "outlier": OUTLIER,
    "outliers2": Rule(far(2, 1), 3, 3 * KEY_BYTES),
    "outliers4-4bit": Rule(far(4, 1, four_bits), 5, KEY_BYTES + 4 * KEY_BYTES_4BIT),
    "far8": Rule(far(1, FAR), 2, 2 * KEY_BYTES),
    "clusters": Rule(clusters, 2, 2 * KEY_BYTES),
    "minmax": Rule(bounds, 2, 2 * KEY_BYTES),
    "outlier-eighth": OUTLIER_EIGHTH,
    "outlier-quarter": replace(OUTLIER_EIGHTH, quotas=((outlier, 1 / 4),)),
    "hint-0.1": replace(HINT, hint=0.1),
    "hint-0.25": replace(HINT, hint=0.25),
    "hint-0.5": replace(HINT, hint=0.5),
    "hint-1": replace(HINT, hint=1.0),
    "hint-eighth": EIGHTH,
    "hint-quarter": replace(HINT, quotas=((counts, 1 / 4),)),
    "hint-half": replace(HINT, quotas=((counts, 1 / 2),)),
    "hint-quarter-fade": replace(HINT, quotas=((counts, 1 / 4),), fade=0.5),
    "hint-eighth-even": replace(EIGHTH, even=True),
    "hint-eighth-anchors0": replace(EIGHTH, anchors=()),
    "hint-eighth-anchors2": replace(EIGHTH, anchors=(0, 1)),
    "hint-eighth-every4": replace(EIGHTH, anchors=(0, 4, 8, 12)),
    "hint-eighth-first4": replace(EIGHTH, rows=4),
    "hint-0.1-sum4": replace(HINT, hint=0.1, rows=4, together="sum"),
    "hint-eighth-halves": replace(EIGHTH, signal=means(2), vectors=2, record=2 * KEY_BYTES),
    "hint-eighth-halves-first4": replace(EIGHTH, signal=means(2), vectors=2, record=2 * KEY_BYTES, rows=4),
    "hint-eighth-outlier-eighth": BOTH,
    "hint-eighth-outlier-eighth-first4": replace(BOTH, rows=4),
    "halves-first4": replace(HALVES, rows=4),
    "units32-first4": replace(UNITS32, rows=4),
}
ASIDE = ("true-mean", "mean-fp32", "mean-sum16", "mean-sum64", "units16", "outliers2", "outliers4-4bit", "hint-1")
"""Measured only if they are asked for."""
