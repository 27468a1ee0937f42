"""Rules that choose the pages of a list, as candidates for two-level scoring; measured by study.py.

A rule looks at R rows of one layer and gives every unit (a page of 64 keys, or a part of one) a worth; the units that
are worth most are listed. The worth comes from a signal (signals.py), perhaps from a hint, what the Full layer before
selected for the same row, and perhaps from several rows together:

    smooth hint       (signal - its mean) / its deviation + a * log(1 + count)
    half, quarter ..  that part of the list goes to the units with the highest counts (hint) or with the best outlier,
                      the rest to the best by signal

count: selected positions in the unit. Bytes are those of what a rule keeps of a page and Full layer (KEY_BYTES a vector
in fp8 with its scale); 14 for the guard and for validity come on top.
"""

from dataclasses import dataclass, replace

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.nano.shape import NANO
from sgl_indexcache.nano.studies.page_rules import digests
from sgl_indexcache.nano.studies.page_rules.signals import (
    Candidates,
    Signal,
    bounds,
    clusters,
    counts,
    exact_selection,
    far,
    float32,
    four_bits,
    means,
    outlier,
    true_maximum,
    true_mean,
)

KEY_BYTES = NANO.index_head_dim + 4
KEY_BYTES_4BIT = NANO.index_head_dim // 2 + 4
FAR = 8
FORCED = 1e30


@dataclass(frozen=True, slots=True)
class Rule:
    """How units are chosen.

    signal       None scores every key
    vectors      that the first level scores of each page
    record       bytes kept of a page
    unit         keys of a unit
    votes        pages forced in by the digests of the two pages before (of the rule's own selections)
    quotas       other signals, and the part of the list that goes to the best by each of them, if above 0
    hint         weight of a smooth hint; 0: none
    fade         what is left of older layers' counts; 0: only the last Full layer hints
    anchors      layers scored exactly
    even         list less, so that with the anchors the layers take their share on average
    rows         consecutive rows with one list
    together     of such rows: "first" (its list), "max" or "sum" of their worths, each centred and scaled by its
                 deviation, "total" (sum of the plain worths)
    oracle       whether the exact selection is used
    """

    signal: Signal | None
    vectors: float = 1
    record: int = KEY_BYTES
    unit: int = PAGE
    votes: int = 0
    quotas: tuple[tuple[Signal, float], ...] = ()
    hint: float = 0.0
    fade: float = 0.0
    anchors: tuple[int, ...] = ()
    even: bool = False
    rows: int = 1
    together: str = "first"
    oracle: bool = False

    def worth(self, inputs: Candidates) -> torch.Tensor:
        """Worth float32 [R, U]; -inf where not allowed."""
        assert self.signal is not None
        worth = self.signal(inputs)
        if self.hint:
            worth = standardised(worth, inputs.allowed) + self.hint * counts(inputs).log1p()
        worth = shared(worth, inputs.allowed, self.rows, self.together)
        for signal, part in self.quotas:
            other = shared(signal(inputs), inputs.allowed, self.rows, self.together).masked_fill(~inputs.allowed, 0.0)
            best = other.topk(min(int(part * inputs.list_units), other.shape[1]), 1)
            forced = torch.zeros_like(other).scatter_(1, best.indices, best.values) > 0
            worth = worth.masked_fill(forced, FORCED)
        return worth.masked_fill(~inputs.allowed, float("-inf"))

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


MEAN = Rule(means(1))
OUTLIER = Rule(far(1, 1), 2, 2 * KEY_BYTES)
HALVES = Rule(means(2), 2, 2 * KEY_BYTES)


UNITS32 = Rule(means(1), 2, 2 * KEY_BYTES, unit=32)
HINT = replace(MEAN, anchors=(0,))
"""Hints begin after a first layer that is exact."""
EIGHTH = replace(HINT, quotas=((counts, 1 / 8),))
OUTLIER_EIGHTH = replace(OUTLIER, signal=means(1), quotas=((outlier, 1 / 8),))
BOTH = replace(OUTLIER_EIGHTH, anchors=(0,), quotas=((counts, 1 / 8), (outlier, 1 / 8)))

RULES: dict[str, Rule] = {
    "exact": Rule(None, 0, 0),
    "best": Rule(exact_selection, 1, 0, oracle=True),
    "best-4": Rule(exact_selection, 1, 0, rows=4, together="total", oracle=True),
    "true-max": Rule(true_maximum, 1, 0),
    "true-mean": Rule(true_mean, 1, 0),
    "mean": MEAN,
    "mean-fp32": Rule(means(1, float32), 1, 4 * NANO.index_head_dim),
    "digests": replace(MEAN, votes=digests.VOTES, record=KEY_BYTES + digests.BYTES),
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
"""Measured only by name."""
