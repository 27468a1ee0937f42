"""On a GPU: the backend `indexcache` against SGLang's own `dsa`, end to end.

With SGLang's kernels chosen it gives the very bits of `dsa`; with ours, the same answers but for the order of sums.
Three engines serve all tests of bf16 KV. Needs CUDA and SGLang 0.5.17 with its kernels; run by `make test-gpu`.
"""

import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)

# Full after Full, Full after Shared, and a Shared layer between them.
PATTERN = "FFSF"
LENGTHS = (100, 2048, 2049, 4095, 4096, 4097, 10000, 70000)
SCHEDULES = 200
TOP_K = 2048
# bf16 activations through four layers: a log-probability moves by about 0.01 when sums are taken in another order.
MEAN_DIFFERENCE, MOST_DIFFERENCE = 0.03, 0.5

Answers = dict[str, Any]


def record(folder: Path, model: Path, name: str, *arguments: str) -> Answers:
    """Answers of one engine in a process of its own."""
    out = folder / f"{name}.json"
    command = [sys.executable, str(Path(__file__).with_name("record.py")), "--model", str(model)]
    command += ["--pattern", PATTERN]
    # The other tests run SGLang's CPU engine; this one must not.
    environment = {key: value for key, value in os.environ.items() if key != "SGLANG_USE_CPU_ENGINE"}
    subprocess.run([*command, *arguments, "--out", str(out)], check=True, timeout=400, env=environment)
    if keep := os.environ.get("GPU_TEST_RECORDS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        (Path(keep) / out.name).write_text(out.read_text())
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def plain(folder: Path, model: Path) -> Answers:
    return record(folder, model, "dsa", "--backend", "dsa")


@pytest.fixture(scope="module")
def parity(folder: Path, model: Path) -> Answers:
    return record(folder, model, "parity", "--backend", "indexcache", "--kernels", "sglang")


@pytest.fixture(scope="module")
def ours(folder: Path, model: Path) -> Answers:
    """Our kernels, with prefill graphs, which run attention and indexer between their segments."""
    flags = ("--backend", "indexcache", "--kernels", "ours", "--prefill-graph", "--schedules", str(SCHEDULES))
    return record(folder, model, "ours", *flags)


def names(answers: Answers) -> list[str]:
    return [name for name in answers if name not in ("state", "schedules", "after")]


def test_the_same_bits_as_dsa(plain: Answers, parity: Answers) -> None:
    assert plain["state"] is None
    assert parity["state"]["pattern"] == PATTERN
    assert names(plain) == names(parity)
    assert [name for name in names(plain) if parity[name] != plain[name]] == []
    assert plain["warm.10000"][0]["cached"] >= 9984


def differences(left: Answers, right: Answers) -> list[float]:
    """Absolute differences of log-probabilities in equal contexts: up to the first generated token that differs."""
    found = []
    for name in names(left):
        for one, other in zip(left[name], right[name], strict=True):
            pairs = list(zip(one["prompt_log_probs"], other["prompt_log_probs"], strict=True))
            for step, token in enumerate(one["tokens"]):
                pairs.append((one["log_probs"][step], other["log_probs"][step]))
                if token != other["tokens"][step]:
                    break
            found += [abs(a - b) for a, b in pairs]
    return found


def check_close(left: Answers, right: Answers) -> None:
    assert names(left) == names(right)
    found = differences(left, right)
    assert len(found) > 500
    assert statistics.fmean(found) < MEAN_DIFFERENCE
    assert max(found) < MOST_DIFFERENCE


def test_our_kernels_give_the_same_answers(plain: Answers, ours: Answers) -> None:
    assert ours["state"]["pattern"] == PATTERN
    check_close(plain, ours)


def test_the_check_of_answers_can_fail(plain: Answers) -> None:
    """Answers to other prompts are further away than the tolerance: the model is not flat."""
    scored = [plain[f"cold.{length}"][0]["prompt_log_probs"] for length in LENGTHS]
    gaps = [abs(a - b) for one, other in pairwise(scored) for a, b in zip(one, other, strict=True)]
    assert statistics.fmean(gaps) > 3 * MEAN_DIFFERENCE


def test_random_schedules(ours: Answers) -> None:
    """SGLang checks its memory whenever it is idle and ends the scheduler on a leak, so arriving here counts."""
    assert ours["schedules"]["wrong"] == 0
    assert ours["schedules"]["finished"] > SCHEDULES
    assert ours["schedules"]["aborted"] > 0


def test_an_answer_does_not_depend_on_what_was_served_before(ours: Answers) -> None:
    assert ours["after"] == ours["cold.2049"]


@pytest.mark.parametrize("answers", ["parity", "ours"])
def test_indexer_work_is_counted(answers: str, request: pytest.FixtureRequest) -> None:
    work = request.getfixturevalue(answers)["state"]["work"]
    full, shared = PATTERN.count("F"), PATTERN.count("S")
    assert work["full_rows"] * shared == work["shared_rows"] * full
    assert work["full_keys"] * shared == work["shared_keys"] * full
    # Every cold prompt that is longer than a selection was scored, all its rows in all Full layers.
    assert work["full_rows"] >= full * sum(length for length in LENGTHS if length > TOP_K)


@pytest.mark.skipif("GPU_TEST_FP8" not in os.environ, reason="two more engines: set GPU_TEST_FP8=1")
def test_fp8_kv(folder: Path, model: Path) -> None:
    flags = ("--kv", "fp8_e4m3", "--lengths", "100,2049,10000")
    theirs = record(folder, model, "dsa-fp8", "--backend", "dsa", *flags)
    found = record(folder, model, "ours-fp8", "--backend", "indexcache", "--kernels", "fp8", *flags)
    assert names(theirs) == names(found)
    gaps = differences(theirs, found)
    assert statistics.fmean(gaps) < 2 * MEAN_DIFFERENCE
