"""What the servers are asked, and what is counted between two answers."""

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.studies import served
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
    two_level = {"loss": 2.2, "losses": [1.1, 3.3], "facts": {"alone": [False, True, True]}, "work": work}
    two_level["continued"] = {"recall": {"0": 0.5, "1": 0.6}}
    figures = compared(exact, two_level)
    assert figures["found"] == {"alone": "1 of 2"}
    assert figures["loss_change"] == pytest.approx(0.1)
    assert figures["loss_change_error"] == pytest.approx(0.0)
    assert (figures["recall"], figures["continued_recall"], figures["keys"]) == (0.8, 0.55, 0.4)
    two_level["continued"] = None
    assert compared(exact, two_level)["continued_recall"] is None


def test_the_command_serves_exactly_and_then_every_shortlist_and_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[dict[str, Any], list[int], list[str]]] = []

    def serve(scoring: dict[str, Any], tasks: list[Tasks], flags: list[str], folder: Path) -> list[dict[str, Any]]:
        calls.append((scoring, [task.length for task in tasks], flags))
        work = {"recall": {"0": 0.9}, "keys_scored": 1, "summaries_scored": 1, "keys_seen": 4}
        return [
            {"length": task.length, "loss": 1.0, "losses": [1.0], "facts": {}, "work": work, "continued": None}
            for task in tasks
        ]

    monkeypatch.setattr(served, "serve", serve)
    (tmp_path / "heldout.bin.xz").write_bytes(lzma.compress(b"plain text of no interest. " * 400))
    out = tmp_path / "out" / "figures.json"
    command = ["served", "--data", str(tmp_path), "--out", str(out), "--lengths", "300", "600", "--prompts", "1"]
    command += ["--shortlists", "0.25", "512", "--floors", "0", "0.9", "--", "--dtype", "bfloat16"]
    assert main(command) == 0
    assert [lengths for _, lengths, _ in calls] == [[300, 600]] * 5
    assert all(flags == ["--dtype", "bfloat16"] for _, _, flags in calls)
    assert calls[0][0] == {"mode": "exact"}
    pairs = [(scoring["shortlist"], scoring["recall_floor"]) for scoring, _, _ in calls[1:]]
    assert pairs == [(0.25, 0.0), (0.25, 0.9), (512, 0.0), (512, 0.9)]
    assert [type(size) for size, _ in pairs] == [float, float, int, int]
    document = json.loads(out.read_text())
    assert [(entry["length"], entry["keys"]) for entry in document["two_level"]] == [(300, 0.5), (600, 0.5)] * 4
