"""The proof rule itself: it accepts ties and what follows from them, and a seeded corruption fails."""

import pytest
import torch

from .near_tie import (
    GAP,
    TOLERANCE,
    Expected,
    Verdict,
    affected,
    classify,
    compare_log_probs,
    well_formed,
    wrong_greedy,
)

ROWS, LAYERS, K, VOCABULARY = 40, 4, 8, 11
PRODUCERS = (0, 1, 1, 3)  # FFSF
E, N, D, U = Verdict.EQUAL, Verdict.NEAR_TIE, Verdict.DOWNSTREAM, Verdict.UNEXPLAINED


def select(scores: torch.Tensor) -> torch.Tensor:
    """int32 [T, K], -1 padded: the K best of every row of fp32 [T, T]."""
    best = scores.topk(K, dim=1)
    return best.indices.masked_fill(best.values == float("-inf"), -1).to(torch.int32)


def make(scores: list[torch.Tensor | None]) -> Expected:
    chosen = [select(scores[producer]) for producer in PRODUCERS]  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    log_probs = torch.randn(ROWS, VOCABULARY, generator=generator).log_softmax(-1)
    return Expected(log_probs, tuple(scores), torch.stack(chosen, dim=1), PRODUCERS)


@pytest.fixture
def expected() -> Expected:
    generator = torch.Generator().manual_seed(3)
    after = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1)
    scores: list[torch.Tensor | None] = [
        torch.randn(ROWS, ROWS, generator=generator).masked_fill(after, float("-inf")) for _ in range(LAYERS)
    ]
    scores[2] = None
    return make(scores)


def swap(expected: Expected, engine: torch.Tensor, row: int, layer: int, gap: float) -> Expected:
    """Let the engine take the best key outside instead of the k-th, at `row` of `layer`, and set the scores
    so that the two are `gap` times the row's scale apart."""
    scores = [None if s is None else s.clone() for s in expected.scores]
    line = scores[layer]
    assert line is not None
    order = line[row].argsort(descending=True)
    last, outside = int(order[K - 1]), int(order[K])
    line[row, outside] = line[row, last] - gap * line[row, : row + 1].abs().max()
    place = engine[row, layer] == last
    assert int(place.sum()) == 1
    for follower, producer in enumerate(PRODUCERS):
        if producer == layer:
            engine[row, follower, place] = outside
    return make(scores)


def verdict_at(engine: torch.Tensor, expected: Expected, row: int) -> list[int]:
    return classify(engine, expected)[row].tolist()


def test_the_reference_agrees_with_itself(expected: Expected) -> None:
    assert (classify(expected.selections, expected) == E).all()
    assert not affected(classify(expected.selections, expected)).any()


def test_order_within_a_selection_is_free(expected: Expected) -> None:
    engine = expected.selections.clone()
    engine[K:] = engine[K:].flip(2)
    assert (classify(engine, expected) == E).all()


def test_a_tie_is_proven_and_excuses_only_what_follows(expected: Expected) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, 20, 0, gap=GAP / 10)
    verdicts = classify(engine, expected)
    assert verdicts[20].tolist() == [N, E, E, E]
    assert (verdicts == E).sum() == ROWS * LAYERS - 1
    assert affected(verdicts).tolist() == [row >= 20 for row in range(ROWS)]


def test_a_wider_gap_is_no_tie(expected: Expected) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, 20, 0, gap=GAP * 3)
    assert verdict_at(engine, expected, 20) == [U, E, E, E]


def test_equal_scores_are_a_tie(expected: Expected) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, 20, 0, gap=0.0)
    assert verdict_at(engine, expected, 20) == [N, E, E, E]


def test_a_shared_layer_inherits_its_producers_difference(expected: Expected) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, 20, 1, gap=GAP / 10)
    assert verdict_at(engine, expected, 20) == [E, N, D, E]


def corrupt(engine: torch.Tensor, row: int, layer: int) -> None:
    """Exchange one selected position for the first that is not selected."""
    taken = set(engine[row, layer].tolist())
    engine[row, layer, 2] = next(position for position in range(row + 1) if position not in taken)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_wrong_selection_is_found(expected: Expected, layer: int) -> None:
    engine = expected.selections.clone()
    corrupt(engine, 30, layer)
    assert verdict_at(engine, expected, 30)[layer] == U
    assert not affected(classify(engine, expected)).any(), "what is unexplained excuses nothing"


@pytest.mark.parametrize(
    ("tie", "wrong", "verdict"),
    [
        ((20, 0), (30, 1), D),  # later row, later layer: its input differed
        ((20, 0), (20, 1), D),  # the same row
        ((20, 0), (19, 1), U),  # a row before the tie has not seen it
        ((20, 1), (30, 0), U),  # nor has an earlier layer
        ((20, 1), (30, 1), U),  # nor the same layer: its input came before
    ],
)
def test_downstream_reaches_later_layers_of_later_rows(
    expected: Expected, tie: tuple[int, int], wrong: tuple[int, int], verdict: Verdict
) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, *tie, gap=GAP / 10)
    corrupt(engine, *wrong)
    assert classify(engine, expected)[wrong] == verdict


def test_a_shared_layer_must_repeat_its_producer_even_downstream(expected: Expected) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, 20, 0, gap=GAP / 10)
    corrupt(engine, 30, 2)
    assert verdict_at(engine, expected, 30) == [E, E, U, E]


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (30, 0, 31),  # a key after the query
        (30, 0, -1),  # fewer than k, and a hole
        (30, 7, -1),  # fewer than k
        (3, 5, 2),  # more than the row has keys
        (30, 0, ROWS),  # outside the sequence
        (30, 0, -2),
    ],
)
def test_a_malformed_selection_is_never_excused(expected: Expected, row: int, column: int, value: int) -> None:
    engine = expected.selections.clone()
    expected = swap(expected, engine, 1 + K, 0, gap=0.0)
    engine[row, 3, column] = value
    assert not well_formed(engine[:, 3])[row]
    assert classify(engine, expected)[row, 3] == U


def test_a_repeated_position_is_malformed(expected: Expected) -> None:
    engine = expected.selections.clone()
    engine[30, 0, 1] = engine[30, 0, 0]
    assert verdict_at(engine, expected, 30)[0] == U


def test_shapes_must_agree(expected: Expected) -> None:
    with pytest.raises(ValueError, match="engine has"):
        classify(expected.selections[:-1], expected)


@pytest.mark.parametrize("value", [TOLERANCE * 3, float("nan")])
def test_log_probabilities_may_differ_after_a_tie_only(expected: Expected, value: float) -> None:
    rows, tokens = list(range(ROWS)), [row % VOCABULARY for row in range(ROWS)]
    engine = [float(expected.log_probs[row, token]) for row, token in zip(rows, tokens, strict=True)]
    free = torch.arange(ROWS) >= 20
    clean = compare_log_probs(rows, tokens, engine, expected, free)
    assert (clean.unexplained, clean.excused) == ([], [])
    assert clean.worst < TOLERANCE
    engine[10] += value
    engine[25] += value
    found = compare_log_probs(rows, tokens, engine, expected, free)
    assert (found.unexplained, found.excused) == ([10], [25])


def test_a_greedy_token_may_differ_in_a_toss_up_after_a_tie_only(expected: Expected) -> None:
    log_probs = expected.log_probs.clone()
    second = log_probs.topk(2, dim=1).indices[:, 1].tolist()
    for row in (10, 25):  # toss-ups; row 30 is none
        log_probs[row, second[row]] = log_probs[row].max() - TOLERANCE / 2
    expected = Expected(log_probs, expected.scores, expected.selections, expected.producers)
    tokens = log_probs.argmax(1).tolist()
    free = torch.arange(ROWS) >= 20
    assert wrong_greedy(range(ROWS), tokens, expected, free) == []
    for row in (10, 25, 30):
        tokens[row] = second[row]
    assert wrong_greedy(range(ROWS), tokens, expected, free) == [10, 30]
