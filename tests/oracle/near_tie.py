"""The proof rule: when may an engine's selection differ from the reference's, and what may follow from it.

fp32 sums in another order differ by about 1e-6 of their size. Where the k-th and the next score lie closer
than that, either choice is right, and everything computed from it differs honestly. A difference is accepted
only where this can be proven from the reference's own scores; what cannot be proven is a failure.

Pure functions over tensors. Shapes: T rows (queries, row r is position r of its sequence), L layers, k the
size of a selection, V the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch

GAP = 2e-5
"""Widest distance from the k-th score that is a tie, as a part of the row's largest absolute score.
Differences seen between correct programs stay below 2e-6."""
TOLERANCE = 1e-4
"""Largest difference of a log-probability (nats) where the selections agree."""


class Verdict(IntEnum):
    """What became of one row at one layer."""

    EQUAL = 0
    NEAR_TIE = 1
    DOWNSTREAM = 2
    UNEXPLAINED = 3


@dataclass(frozen=True)
class Expected:
    """What the reference found for one sequence.

    log_probs   fp32 `[T, V]`; row r is the distribution of the token at position r + 1
    scores      for each layer fp32 `[T, T]`, -inf where the key is after the query; None at a Shared layer
    selections  int32 `[T, L, k]`, -1 padded; at a Shared layer its producer's
    producers   for each layer the Full layer whose selection it uses; itself if it is Full
    """

    log_probs: torch.Tensor
    scores: tuple[torch.Tensor | None, ...]
    selections: torch.Tensor
    producers: tuple[int, ...]


def members(selection: torch.Tensor) -> torch.Tensor:
    """Selections int `[T, k]`, -1 padded, as sets: bool `[T, T]`. Positions outside 0..T-1 are left out."""
    rows = selection.shape[0]
    inside = (selection >= 0) & (selection < rows)
    sets = torch.zeros(rows, rows + 1, dtype=torch.bool)
    sets.scatter_(1, torch.where(inside, selection.long(), rows), True)
    return sets[:, :rows]


def well_formed(selection: torch.Tensor) -> torch.Tensor:
    """Whether each row of int `[T, k]` is a selection at all: bool `[T]`.

    Exactly min(k, r + 1) entries at the front, all different, none after the query; the rest is -1.
    """
    rows, k = selection.shape
    position = torch.arange(rows)[:, None]
    front = torch.arange(k)[None] < (position + 1)
    in_range = (selection >= 0) & (selection <= position)
    padded = torch.where(front, in_range, selection == -1).all(1)
    return padded & (members(selection).sum(1) == front.sum(1))


def at_near_tie(engine: torch.Tensor, reference: torch.Tensor, scores: torch.Tensor, k: int) -> torch.Tensor:
    """Whether each row's difference is proven to be a choice among ties: bool `[T]`.

    engine, reference  sets, bool `[T, T]`
    scores             fp32 `[T, T]`, -inf after the query
    k                  size of a selection; rows with fewer keys have nothing to choose and no tie
    """
    rows = scores.shape[0]
    finite = scores.isfinite()
    scale = torch.where(finite, scores.abs(), torch.zeros(())).amax(1)
    threshold = scores.topk(min(k, rows), dim=1).values[:, -1]
    distance = (scores - threshold[:, None]).abs()
    near = finite & (distance <= GAP * scale[:, None])
    return threshold.isfinite() & ((engine ^ reference) <= near).all(1)


def classify(engine: torch.Tensor, expected: Expected) -> torch.Tensor:
    """The verdict on every row at every layer: int8 `[T, L]`, values of Verdict.

    A row is downstream at a layer if a row at or before it differed by a proven near-tie, or was downstream
    itself, at an earlier layer: through attention and index keys its input then differs. A Shared layer
    inherits its producer's verdict, and is unexplained if it does not repeat the engine's producer exactly.

    engine  selections int `[T, L, k]`, request-relative, -1 padded, in any order within a row
    """
    if engine.shape != expected.selections.shape:
        raise ValueError(f"engine has {tuple(engine.shape)}, the reference {tuple(expected.selections.shape)}")
    rows, layers, k = engine.shape
    verdicts = torch.full((rows, layers), Verdict.UNEXPLAINED, dtype=torch.int8)
    touched = torch.zeros(rows, dtype=torch.bool)  # rows whose input to this layer honestly differs
    for layer in range(layers):
        producer, scores = expected.producers[layer], expected.scores[layer]
        ours = members(engine[:, layer])
        theirs = members(expected.selections[:, layer])
        if producer != layer:
            repeats = (engine[:, layer] == engine[:, producer]).all(1)
            inherited = verdicts[:, producer].clone()
            inherited[inherited == Verdict.NEAR_TIE] = Verdict.DOWNSTREAM
            verdicts[repeats, layer] = inherited[repeats]
        elif scores is None:
            raise ValueError(f"layer {layer} is Full but the reference has no scores for it")
        else:
            column = verdicts[:, layer]
            column[touched] = Verdict.DOWNSTREAM
            column[at_near_tie(ours, theirs, scores, k)] = Verdict.NEAR_TIE
            column[(ours == theirs).all(1)] = Verdict.EQUAL
            column[~well_formed(engine[:, layer])] = Verdict.UNEXPLAINED
        honest = (verdicts[:, layer] == Verdict.NEAR_TIE) | (verdicts[:, layer] == Verdict.DOWNSTREAM)
        touched |= honest.cummax(0).values
    return verdicts


def affected(verdicts: torch.Tensor) -> torch.Tensor:
    """Rows at or after a proven near-tie of any layer, whose output may differ: bool `[T]`."""
    honest = (verdicts == Verdict.NEAR_TIE) | (verdicts == Verdict.DOWNSTREAM)
    return honest.any(1).cummax(0).values


@dataclass(frozen=True)
class LogProbVerdict:
    """Rows of log-probabilities further than TOLERANCE from the reference's.

    unexplained  rows with no near-tie at or before them
    excused      rows with one
    worst        largest difference among all rows that are not excused, in nats
    """

    unexplained: list[int]
    excused: list[int]
    worst: float


def compare_log_probs(
    rows: Sequence[int],
    tokens: Sequence[int],
    engine: Sequence[float],
    expected: Expected,
    free: torch.Tensor,
) -> LogProbVerdict:
    """Compare single log-probabilities: that of `tokens[i]` in row `rows[i]` with `engine[i]`.

    free  bool `[T]`, rows that may differ (`affected`)
    """
    theirs = expected.log_probs[torch.tensor(rows), torch.tensor(tokens)]
    difference = (torch.tensor(engine, dtype=theirs.dtype) - theirs).abs()
    # A NaN is never within the tolerance.
    off = ~(difference <= TOLERANCE)
    may = free[torch.tensor(rows)]
    index = torch.tensor(rows)
    return LogProbVerdict(
        unexplained=index[off & ~may].tolist(),
        excused=index[off & may].tolist(),
        worst=float(difference[~(off & may)].max()) if bool((~(off & may)).any()) else 0.0,
    )


def wrong_greedy(rows: Sequence[int], tokens: Sequence[int], expected: Expected, free: torch.Tensor) -> list[int]:
    """Rows whose greedy token is not the reference's, and not a toss-up either.

    A toss-up is a token less than TOLERANCE below the most likely one, in a row of `free` (bool `[T]`).
    """
    at = expected.log_probs[torch.tensor(rows)]
    chosen = torch.tensor(tokens)
    margin = at.max(1).values - at.gather(1, chosen[:, None])[:, 0]
    tossup = (margin < TOLERANCE) & free[torch.tensor(rows)]
    return torch.tensor(rows)[(at.argmax(1) != chosen) & ~tossup].tolist()
