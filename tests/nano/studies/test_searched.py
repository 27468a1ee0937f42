"""The search on the training code finds what the forward says, and the forward is the served model's."""

import pytest
import torch

from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.studies import searched
from sgl_indexcache.pattern import Pattern


@pytest.fixture(scope="module")
def evaluator() -> searched.Evaluator:
    text = (CHECKPOINT / "README.md").read_bytes()[:640]
    tokens = torch.tensor([list(text[:320]), list(text[320:640])])
    return searched.Evaluator(searched.load(CHECKPOINT, torch.device("cpu")), tokens)


def test_sharing_changes_the_loss_and_full_restores_it(evaluator: searched.Evaluator) -> None:
    full, shared = Pattern("F" * 16), Pattern("F" + "S" * 15)
    first, other, again = evaluator([full, shared, full])
    assert first == again
    assert first != other


def test_the_first_step_takes_the_best_flip(evaluator: searched.Evaluator) -> None:
    result = searched.search(evaluator, 16, 15)
    step = result["steps"][1]
    assert step["loss"] == min(step["candidates"].values())
    assert result["evaluations"]["asked"] == 16
    assert result["pattern"].count("S") == 1
