"""A search that is killed half-way ends, when started again, as one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("slow_search.py")
TOTAL = 1 + 7 + 6 + 5 + 4 + 3 + 2
"""evaluations of 8 layers down to 2"""


def start(out: Path, limit: int, workers: int) -> "subprocess.Popen[str]":
    """A search that hangs after `limit` evaluations."""
    command = [sys.executable, str(PROGRAM), str(out), str(limit), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(out: Path, workers: int) -> str:
    process = start(out, TOTAL, workers)
    printed, _ = process.communicate()
    assert process.returncode == 0
    return printed.strip()


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "search.json").read_text())


@pytest.mark.parametrize("workers", [1, 3])
def test_killed_half_way(tmp_path: Path, workers: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = finish(whole, 1)
    process = start(killed, 9, workers)
    journal = killed / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = journal.read_bytes().count(b"\n") - 1
    assert done == 9
    assert not (killed / "search.json").exists()
    assert finish(killed, workers) == expected
    assert report(killed)["evaluations"] == {"asked": TOTAL, "measured_now": TOTAL - done, "seconds_measuring": 0.0}
    assert report(killed)["steps"] == report(whole)["steps"]
    # A third time there is nothing left to measure.
    assert finish(killed, 1) == expected
    assert report(killed)["evaluations"]["measured_now"] == 0


def test_what_a_search_leaves_behind(tmp_path: Path) -> None:
    letters = finish(tmp_path, 2)
    found = report(tmp_path)
    assert found["schema"] == "sgl_indexcache.search/1"
    assert found["pattern"] == letters == found["budgets"]["2"]["pattern"]
    assert sorted(map(int, found["budgets"])) == [2, 3, 4, 5, 6, 7, 8]
    assert found["increase"] == pytest.approx(found["loss"] / found["full_loss"] - 1)
    assert found["steps"][1]["loss"] == min(found["steps"][1]["candidates"].values())
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in (tmp_path / "search.json").read_text()
    from sgl_indexcache.settings import load

    assert load(tmp_path / "indexcache.yaml", {}).pattern == letters
