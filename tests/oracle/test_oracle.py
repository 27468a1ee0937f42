"""The plugin under a real SGLang engine on the CPU, against transformers: selections, log-probs, tokens.

Four engines; every value of every axis (architecture, experts, page size, overlap) stands in two of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sgl_indexcache.nano.random_model import RandomModelSpec

from .near_tie import Verdict, affected, classify, compare_log_probs, wrong_greedy
from .reference import Reference
from .session import BATCH, CHUNK, NEW, PROMPT, Configuration, Session, run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

EXCUSED = 0.05
"""Largest share of rows that near-ties may excuse: beyond it the test would no longer test."""

CONFIGURATIONS = {
    "v32-dense-page64-overlap": Configuration(RandomModelSpec(), page_size=64, overlap=True),
    "v32-moe-page1": Configuration(RandomModelSpec(moe=True, seed=1), page_size=1, overlap=False),
    "glm-dense-page1-overlap": Configuration(
        RandomModelSpec(architecture="glm_moe_dsa", pattern="FFSSFS", seed=2), page_size=1, overlap=True
    ),
    # The pattern comes from the plugin's settings, over a config that asks for none.
    "glm-moe-page64": Configuration(
        RandomModelSpec(architecture="glm_moe_dsa", moe=True, seed=3),
        page_size=64,
        overlap=False,
        pattern="FSSSFS",
    ),
}
ALL = ("cold", "hit", "repeat", *BATCH)


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    torch.set_num_threads(2)
    return run(CONFIGURATIONS[request.param], tmp_path_factory.mktemp("oracle"))


def agree(session: Session, name: str) -> None:
    """Hold one answer against the reference; differences must be proven, and then proven again.

    The first comparison lets a row differ downstream of a tie. The second leaves nothing downstream: the
    reference is made to choose as the engine did, and with equal choices behind it every selection must be
    equal or a tie on its own, and every log-probability and token must agree.
    """
    answer, expected = session.answers[name], session.expected(name)
    verdicts = classify(answer.selections, expected)
    unexplained = (verdicts == Verdict.UNEXPLAINED).nonzero().tolist()
    assert not unexplained, f"{name}: wrong selections at [row, layer] {unexplained[:20]} ({len(unexplained)})"
    free = affected(verdicts)
    found = compare_log_probs(answer.rows, answer.targets, answer.log_probs, expected, free)
    assert not found.unexplained, f"{name}: log-probabilities differ by up to {found.worst:.1e} in {found}"
    wrong = wrong_greedy(answer.decoded_rows, answer.output, expected, free)
    assert not wrong, f"{name}: other greedy tokens in rows {wrong}"
    if (verdicts != Verdict.EQUAL).any():
        agree_with_choices_given(session, name)


def agree_with_choices_given(session: Session, name: str) -> None:
    """The second comparison of `agree`."""
    answer = session.answers[name]
    expected = session.reference.run(answer.tokens[:-1], force=answer.selections)
    verdicts = classify(answer.selections, expected)
    for layer, producer in enumerate(expected.producers):
        if producer == layer:
            bad = (verdicts[:, layer] > Verdict.NEAR_TIE).nonzero()[:, 0].tolist()
            assert not bad, f"{name}: layer {layer}, rows {bad[:20]} differ by more than a tie"
    nowhere = torch.zeros(len(answer.tokens) - 1, dtype=torch.bool)
    found = compare_log_probs(answer.rows, answer.targets, answer.log_probs, expected, nowhere)
    assert not found.unexplained, f"{name}: attention did not use the selections it reports: {found}"
    assert wrong_greedy(answer.decoded_rows, answer.output, expected, ~nowhere) == []


def test_a_chunked_cold_prompt_agrees(session: Session) -> None:
    answer = session.answers["cold"]
    assert answer.prompt > 2 * CHUNK
    assert answer.cached == 0
    assert answer.rows == list(range(PROMPT + NEW - 1)), "log-probabilities of every row"
    agree(session, "cold")


def test_a_new_tail_on_a_cached_prefix_agrees(session: Session) -> None:
    page = session.configuration.page_size
    assert session.answers["hit"].cached == PROMPT * 2 // 3 // page * page
    agree(session, "hit")


def test_a_repeated_prompt_agrees(session: Session) -> None:
    page = session.configuration.page_size
    cached = session.answers["repeat"].cached
    assert cached == (PROMPT - 1) // page * page
    agree(session, "repeat")
    cold, repeat = session.answers["cold"].selections, session.answers["repeat"].selections
    assert torch.equal(cold[:cached], repeat[:cached]), "selections of cached rows are those of the first run"


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_of_mixed_lengths_agrees(session: Session, name: str) -> None:
    agree(session, name)


def test_the_batch_holds_hits_and_cold_prompts(session: Session) -> None:
    cached = [session.answers[name].cached for name in BATCH]
    assert all(cached[number] > 0 for number in (1, 2)), cached
    assert cached[3:] == [0, 0, 0], cached


def test_shared_layers_use_their_producers_selection(session: Session) -> None:
    letters = session.configuration.letters
    for name, producer, layer in shared(letters):
        selections = session.answers[name].selections
        assert torch.equal(selections[:, layer], selections[:, producer]), (name, producer, layer)
    full = [layer for layer, letter in enumerate(letters) if letter == "F"]
    for name in ALL:
        selections = session.answers[name].selections
        for one, two in pairwise(full):
            # Else the test above would also pass on an engine that runs one indexer for all layers.
            assert not torch.equal(selections[:, one], selections[:, two]), (name, one, two)


def test_ties_excuse_little(session: Session) -> None:
    differing = selections = excused = log_probs = 0
    for name in ALL:
        answer, expected = session.answers[name], session.expected(name)
        verdicts = classify(answer.selections, expected)
        free = affected(verdicts)
        found = compare_log_probs(answer.rows, answer.targets, answer.log_probs, expected, free)
        differing += int((verdicts != Verdict.EQUAL).sum())
        selections += verdicts.numel()
        excused += len(found.excused)
        log_probs += len(answer.rows)
        print(f"{name}: largest difference outside excused rows {found.worst:.1e}")
    print(f"excused: {differing} of {selections} selections, {excused} of {log_probs} log-probabilities")
    assert differing < EXCUSED * selections
    assert excused < EXCUSED * log_probs


def test_seeded_defects_are_noticed(session: Session) -> None:
    name = "batch3"
    answer = session.answers[name]
    row = answer.prompt - 2

    def refused(match: str, **changes: object) -> None:
        spoilt = replace(session, answers={name: replace(answer, **changes)}, known=dict(session.known))
        with pytest.raises(AssertionError, match=match):
            agree(spoilt, name)

    wrong = answer.selections.clone()
    followers = session.configuration.letters.index("F", 1)  # layer 0 and the Shared layers after it
    wrong[row, :followers, 0] = next(position for position in range(row) if position not in wrong[row, 0])
    refused("wrong selections", selections=wrong)
    refused("log-probabilities differ", log_probs=[answer.log_probs[0] + 1e-3, *answer.log_probs[1:]])
    # The last token is fed to nothing, so that it alone is wrong.
    second = session.expected(name).log_probs[-1].topk(2).indices[1].item()
    refused("greedy|log-probabilities", tokens=[*answer.tokens[:-1], second])


def test_an_engine_with_another_pattern_would_be_noticed(session: Session) -> None:
    if session.configuration.spec.architecture != "glm_moe_dsa":
        pytest.skip("transformers knows no pattern for this architecture")
    other = replace(session, reference=Reference(session.folder, "FFFSFF"), known={})
    with pytest.raises(AssertionError, match="wrong selections"):
        agree(other, "batch3")


def shared(letters: str) -> Sequence[tuple[str, int, int]]:
    """(request, producer, layer) for every request and Shared layer."""
    return [
        (name, letters.rindex("F", 0, layer), layer)
        for name in ALL
        for layer, letter in enumerate(letters)
        if letter == "S"
    ]
