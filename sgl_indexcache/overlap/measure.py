"""Overlap of selections: |A ∩ B| / k, where k is the size of A.

Selections are int32 `[T, L, k]`: row t (a query), layer, positions 0..t; shorter ones are padded with -1. Rows
with t < k select every position, so only later rows tell anything.
"""

from collections.abc import Sequence

import numpy as np


def sparse_rows(length: int, top_k: int, count: int) -> np.ndarray:
    """Up to `count` rows of a sequence of `length` tokens, evenly spread over those with more keys than k."""
    first = min(top_k, length - 1)
    return np.unique(np.linspace(first, length - 1, min(count, length - first)).round().astype(np.int64))


def between_layers(selections: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean overlap of every pair of layers on the same query: float64 `[L, L]`, symmetric, ones on its diagonal."""
    layers = selections.shape[1]
    total = np.zeros((layers, layers))
    for row in rows:
        members = _members(selections[row], int(row) + 1)
        total += members @ members.T / _size(selections[row, 0])
    return total / len(rows)


def between_queries(selections: np.ndarray, rows: np.ndarray, distances: Sequence[int]) -> np.ndarray:
    """Mean overlap of query t with query t - d of the same layer: float64 `[len(distances), L]`.

    A row counts for a distance when query t - d itself had more keys than k; NaN where no row does.
    """
    top_k = selections.shape[2]
    result = np.full((len(distances), selections.shape[1]), np.nan)
    for number, distance in enumerate(distances):
        kept = [int(row) for row in rows if row - distance >= top_k]
        if kept:
            result[number] = np.mean([_shared(selections, row, row - distance) for row in kept], axis=0)
    return result


def between_steps(selections: np.ndarray, prompt: int) -> np.ndarray:
    """Overlap of every decode step with the one before: float64 `[steps, L]`; the prompt has `prompt` tokens."""
    rows = range(prompt, len(selections))
    return np.array([_shared(selections, row, row - 1) for row in rows]).reshape(-1, selections.shape[1])


def recall(selections: np.ndarray, reference: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """|A ∩ R| / |R| by layer: float64 `[L]`, the mean over rows.

    selections, reference: int32 `[R, L, k]` of the same rows; sizes: int `[R]`, number of keys of each row.
    """
    shares = []
    for ours, theirs, size in zip(selections, reference, sizes, strict=True):
        both = _members(ours, int(size)) * _members(theirs, int(size))
        shares.append(both.sum(axis=1) / _size(theirs[0]))
    return np.array(np.mean(shares, axis=0))


def chance(rows: np.ndarray, top_k: int) -> float:
    """The overlap that two random selections would have on these rows."""
    return float(np.mean(np.minimum(top_k / (rows + 1), 1.0)))


def _shared(selections: np.ndarray, row: int, other: int) -> np.ndarray:
    size = max(row, other) + 1
    both = _members(selections[row], size) * _members(selections[other], size)
    return np.array(both.sum(axis=1) / _size(selections[row, 0]))


def _members(selection: np.ndarray, size: int) -> np.ndarray:
    """`[L, k]` positions to float32 `[L, size]` of ones and zeros."""
    members = np.zeros((len(selection), size + 1), dtype=np.float32)
    # The padding -1 falls into the last column, which is cut off.
    np.put_along_axis(members, selection.astype(np.int64), 1.0, axis=1)
    return members[:, :size]


def _size(selection: np.ndarray) -> int:
    return max(int((selection >= 0).sum()), 1)
