"""What the pages of a shortlist may be chosen by: signals, which read what is kept of a page, or what nobody can keep.

A signal sees R rows of one layer and gives every unit (a page of 64 keys, or a part of one) a worth. With the index
score I(q, k) = sum over heads h of w[h] * relu(q[h] . k):

    means     max over j of I(q, mean of the j-th part of the keys)
    far       max(I(q, mean key), I(q, x)), x the key farthest from the mean or the mean of the farthest
    outlier   I(q, x) alone
    clusters  max over 2 of I(q, centroid), the keys parted by distance instead of order
    bounds    sum over h of w[h] * relu(b[h]), b[h] >= q[h] . k for all keys by their range in every column
              (b[h] <= q[h] . k where w[h] < 0)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.shortlist import pack_summary, unpack_summary

ROUNDS = 4
"""Of moving keys between two clusters."""


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
