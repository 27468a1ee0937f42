"""Signals, by which pages may be ranked: they read what can be kept of a page, or, for comparison, what cannot.

A signal looks at R rows of one layer and gives every unit (a page of 64 keys, or a part of one) a worth. With the index
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


class Candidates(NamedTuple):
    """What a rule may look at: R rows, the U units of the context up to the last of them, u keys in each.

    q, gates      [R, H, D], [R, H]
    keys          [U, u, D]
    allowed       bool [R, U]: complete pages before the row's own
    hint          [R, U] what the Full layer before selected in each unit for the same row; None without such a layer
    list_units    units of a list
    scores        [R, U, u] exact index scores; no rule that can be served knows them, nor the next
    exact_counts  [R, U] positions of the exact selection in each unit
    """

    q: torch.Tensor
    gates: torch.Tensor
    keys: torch.Tensor
    allowed: torch.Tensor
    hint: torch.Tensor | None
    list_units: int
    scores: torch.Tensor
    exact_counts: torch.Tensor | None


Signal = Callable[[Candidates], torch.Tensor]
"""Worth float32 [R, U]."""
Storage = Callable[[torch.Tensor], torch.Tensor]
"""Vectors [..., D] as they come back from a record."""


# --- what is kept of a unit ---


def fp8(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors as a summary keeps them."""
    rounded: torch.Tensor = unpack_summary(pack_summary(vectors))
    return rounded


def four_bits(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in whole numbers of -7 to 7 times one scale each."""
    scale = (vectors.abs().amax(-1, keepdim=True) / 7).clamp(min=1e-30)
    return (vectors / scale).round() * scale


def float32(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors as they are."""
    return vectors


def best_of(inputs: Candidates, vectors: torch.Tensor) -> torch.Tensor:
    """Highest score [R, U] among each unit's vectors [U, V, D]."""
    count = vectors.shape[1]
    scores: torch.Tensor = score(inputs.q, vectors.flatten(0, 1), inputs.gates)
    return scores.view(inputs.q.shape[0], -1, count).amax(2)


def means(parts: int, storage: Storage = fp8) -> Signal:
    """Best of the means of `parts` equal parts of a unit."""

    def signal(inputs: Candidates) -> torch.Tensor:
        keys = inputs.keys
        mean = keys.view(keys.shape[0], parts, -1, keys.shape[2]).mean(2)
        return best_of(inputs, storage(mean))

    return signal


def far(outliers: int, of: int, storage: Storage = fp8) -> Signal:
    """Best of the mean and of `outliers` means of `of` keys each, those farthest from the mean first."""

    def signal(inputs: Candidates) -> torch.Tensor:
        keys = inputs.keys
        mean = keys.mean(1, keepdim=True)
        order = (keys - mean).square().sum(2).topk(outliers * of, 1).indices
        outlying = keys.gather(1, order.unsqueeze(2).expand(-1, -1, keys.shape[2]))
        outlying = outlying.view(keys.shape[0], outliers, of, -1).mean(2)
        return best_of(inputs, torch.cat((fp8(mean), storage(outlying)), 1))

    return signal


def outlier(inputs: Candidates) -> torch.Tensor:
    """The key farthest from the mean alone."""
    keys = inputs.keys
    at = torch.arange(keys.shape[0], device=keys.device)
    farthest = (keys - keys.mean(1, keepdim=True)).square().sum(2).argmax(1)
    return best_of(inputs, fp8(keys[at, farthest].unsqueeze(1)))


def counts(inputs: Candidates) -> torch.Tensor:
    """The hint's."""
    return torch.zeros_like(inputs.allowed, dtype=torch.float32) if inputs.hint is None else inputs.hint


def clusters(inputs: Candidates) -> torch.Tensor:
    """Best of two centroids; the first ones are the key farthest from the mean and the key farthest from that."""
    keys = inputs.keys
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
    return best_of(inputs, fp8(centres))


def bounds(inputs: Candidates) -> torch.Tensor:
    """Bound of the score of any key, head by head, from the columns' ranges (rounded to fp8, not outwards)."""
    low, high = fp8(inputs.keys.amin(1)), fp8(inputs.keys.amax(1))
    rows, heads, dim = inputs.q.shape
    up, down = inputs.q.relu().view(-1, dim), (-inputs.q).relu().view(-1, dim)
    above = (up @ high.T - down @ low.T).relu_().view(rows, heads, -1)
    below = (up @ low.T - down @ high.T).relu_().view(rows, heads, -1)
    gates = inputs.gates.unsqueeze(1)
    return (gates.relu() @ above - (-gates).relu() @ below).squeeze(1)


# --- not affordable: what better signals could reach ---


def exact_selection(inputs: Candidates) -> torch.Tensor:
    """Positions of the exact selection."""
    assert inputs.exact_counts is not None
    return inputs.exact_counts


def true_maximum(inputs: Candidates) -> torch.Tensor:
    """Highest exact score."""
    return inputs.scores.amax(2)


def true_mean(inputs: Candidates) -> torch.Tensor:
    """Mean exact score."""
    return inputs.scores.mean(2)
