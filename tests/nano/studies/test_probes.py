"""The files that patterns are searched on and judged by."""

import json
import lzma
import random
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.studies import probes

LENGTH = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("probes")
    draw = random.Random(3)
    # The halves are written in different letters, so that every window shows where it is from.
    text = "".join(draw.choices("abcdefgh ", k=20_000)) + "".join(draw.choices("qrstuvwx ", k=40_000))
    text = text[:40_000]
    (made / "heldout.bin.xz").write_bytes(lzma.compress(text.encode()))
    arguments = ["--data", str(made), "--out", str(made / "out"), "--length", str(LENGTH), "--needles", "1"]
    assert main(["probes", *arguments, "--calibration", "3", "--heldout", "4"]) == 0
    return made / "out"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def letters(ids: list[int]) -> str:
    return bytes(token for token in ids if token < 256).decode()


def test_search_and_judging_see_different_halves(folder: Path) -> None:
    calibration, heldout = read(folder / "calibration.jsonl"), read(folder / "heldout.jsonl")
    assert [len(entry["ids"]) for entry in calibration + heldout] == [LENGTH] * 7
    assert all("gh" in letters(entry["ids"]) for entry in calibration)
    assert all(set(letters(entry["ids"])) <= set("qrstuvwx ") for entry in heldout)
    assert set((folder / "text.txt").read_text()) <= set("qrstuvwx ")


def test_every_answer_stands_in_its_prompt(folder: Path) -> None:
    tasks = read(folder / "needles.jsonl")
    assert len(tasks) == 7 * probes.DEPTHS
    for task in tasks:
        answer = letters(task["answer"])
        assert len(answer) == 5
        assert answer.isdigit()
        assert answer in letters(task["ids"])
        assert LENGTH - 20 <= len(task["ids"]) <= LENGTH
