"""What the servers are asked, and what is counted between two answers."""

import pytest
import torch

from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.studies.served import DISTRACTORS, Tasks, between, compared

LENGTH = 1500


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    return Tasks.draw(torch.tensor(list(b"plain text of no interest. " * 400), dtype=torch.uint8), LENGTH, 2, 0, 7)


def test_a_fact_is_stated_once_and_asked_for_where_the_prompt_ends(tasks: Tasks) -> None:
    assert [len(ids) for ids in tasks.prompts] == [LENGTH, LENGTH]
    assert list(tasks.facts) == list(DISTRACTORS)
    for name, facts in tasks.facts.items():
        assert len(facts) == 7
        for fact in facts:
            assert isinstance(fact.answer, list)
            digits, prompt = bytes(fact.answer), bytes(i for i in fact.ids if i < 256)
            assert digits.isdigit()
            assert prompt.count(digits) == 1
            assert LENGTH - 64 < len(fact.ids) < LENGTH
            # Every fact puts at least five digits into a text that has none.
            assert sum(chr(byte).isdigit() for byte in prompt) >= 5 * (1 + DISTRACTORS[name])


def test_work_between_two_snapshots() -> None:
    before = {"keys_seen": 10, "keys_scored": 4, "sampled_rows": {"0": 2}, "recall": {"0": 0.5}, "fallbacks": {"0": 1}}
    after = {
        "keys_seen": 40,
        "keys_scored": 14,
        "sampled_rows": {"0": 6, "3": 1},
        "recall": {"0": 0.75, "3": 1.0},
        "fallbacks": {"0": 1, "3": 2},
    }
    assert between(before, after) == {
        "keys_seen": 30,
        "keys_scored": 10,
        "sampled_rows": {"0": 4, "3": 1},
        "recall": {"0": 0.875, "3": 1.0},
        "fallbacks": {"0": 0, "3": 2},
    }
    assert between(None, None) is None


def test_sizes_that_no_server_takes(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["served", "--data", "nowhere", "--out", "nowhere", "--shortlists", "1856"]
    assert main([*command, "half"]) == 2
    assert "'half' is no size of a list" in capsys.readouterr().err
    assert main([*command, "0.5", "--decode-rows", "1"]) == 2
    assert "shortlists of one size" in " ".join(capsys.readouterr().err.split())


def test_facts_are_compared_one_by_one() -> None:
    exact = {"loss": 2.0, "losses": [1.0, 3.0], "facts": {"alone": [True, True, False]}}
    work = {"recall": {"0": 0.9, "1": 0.7}, "keys_scored": 30, "summaries_scored": 10, "keys_seen": 100}
    served = {"loss": 2.2, "losses": [1.1, 3.3], "facts": {"alone": [False, True, True]}, "work": work}
    served["continued"] = {"recall": {"0": 0.5, "1": 0.6}}
    figures = compared(exact, served)
    assert figures["found"] == {"alone": "1 of 2"}
    assert figures["loss_change"] == pytest.approx(0.1)
    assert figures["loss_change_error"] == pytest.approx(0.0)
    assert (figures["recall"], figures["continued_recall"], figures["keys"]) == (0.8, 0.55, 0.4)
    served["continued"] = None
    assert compared(exact, served)["continued_recall"] is None
