"""The reference itself, without an engine: what it reports is what transformers used."""

from pathlib import Path
from random import Random

import pytest
import torch

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

from .near_tie import Verdict, classify, well_formed
from .reference import Reference

TOPK, LENGTH = 8, 60
DRAW = Random(5)
TOKENS = [DRAW.randrange(256) for _ in range(LENGTH)]


def checkpoint(folder: Path, **changes: object) -> Path:
    sizes = {"layers": 4, "index_topk": TOPK, "index_n_heads": 16, "index_head_dim": 32, "hidden": 64}
    return write_random_model(folder, RandomModelSpec(**{**sizes, **changes}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference") / "model"
    return Reference(checkpoint(folder, architecture="glm_moe_dsa", moe=True, pattern="FSFS"))


def test_selections_follow_from_the_scores(glm: Reference) -> None:
    found = glm.run(TOKENS)
    assert glm.producers == found.producers == (0, 0, 2, 2)
    assert [scores is None for scores in found.scores] == [False, True, False, True]
    assert found.selections.shape == (LENGTH, 4, TOPK)
    assert (classify(found.selections, found) == Verdict.EQUAL).all()
    for layer in range(4):
        assert well_formed(found.selections[:, layer]).all()
        scores = found.scores[found.producers[layer]]
        assert scores is not None
        row = LENGTH - 1
        assert set(found.selections[row, layer].tolist()) == set(scores[row].topk(TOPK).indices.tolist())


def test_short_sequences_select_everything(glm: Reference) -> None:
    found = glm.run(TOKENS[:3])
    assert found.selections[:, 0, 3:].eq(-1).all()
    assert [sorted(line) for line in found.selections[:, 0, :3].tolist()] == [
        [-1, -1, 0],
        [-1, 0, 1],
        [0, 1, 2],
    ]


def test_its_own_choices_forced_change_nothing(glm: Reference) -> None:
    free = glm.run(TOKENS)
    forced = glm.run(TOKENS, force=free.selections.sort(dim=2, descending=True).values)
    torch.testing.assert_close(forced.log_probs, free.log_probs, rtol=0, atol=1e-5)


def test_a_forced_choice_acts_from_its_row_on(glm: Reference) -> None:
    free = glm.run(TOKENS)
    given, row = free.selections.clone(), 40
    given[row, 0, 0] = next(position for position in range(row) if position not in given[row, 0])
    forced = glm.run(TOKENS, force=given)
    torch.testing.assert_close(forced.log_probs[:row], free.log_probs[:row], rtol=0, atol=1e-5)
    assert (forced.log_probs[row] - free.log_probs[row]).abs().max() > 1e-3
    # It still reports what the indexer itself would have chosen.
    assert set(forced.selections[row, 0].tolist()) == set(free.selections[row, 0].tolist())


def test_a_forced_run_leaves_the_model_as_it_was(glm: Reference) -> None:
    before = glm.run(TOKENS)
    glm.run(TOKENS, force=before.selections.roll(1, dims=0))
    assert torch.equal(glm.run(TOKENS).log_probs, before.log_probs)


def test_a_pattern_given_is_a_pattern_in_the_config(tmp_path: Path) -> None:
    written = Reference(checkpoint(tmp_path / "a", architecture="glm_moe_dsa", pattern="FSSF"))
    given = Reference(checkpoint(tmp_path / "b", architecture="glm_moe_dsa"), pattern="FSSF")
    assert torch.equal(written.run(TOKENS).log_probs, given.run(TOKENS).log_probs)
    own = Reference(tmp_path / "b")
    assert own.producers == (0, 1, 2, 3)
    assert not torch.equal(own.run(TOKENS).log_probs, given.run(TOKENS).log_probs)


def test_a_pattern_that_transformers_would_ignore_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all Full"):
        Reference(checkpoint(tmp_path / "model", pattern="FSFS"))
