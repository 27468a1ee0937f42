"""The index store in the real engine: the same bits as without it, less indexer work, nothing left over."""

import json
import os
from pathlib import Path

import pytest

from ..engine import run_program
from ..server import refusal

pytestmark = pytest.mark.engine

PLANS = {
    "margins": ["--schedules", "16", "--mixed"],
    # The CUDA backend's store, and two tensor-parallel ranks that must decide the same.
    "whole-prefills": ["--schedules", "10", "--whole-prefills"],
    "ranks": ["--schedules", "5", "--tp", "2"],
}


@pytest.mark.parametrize("plan", PLANS)
def test_random_schedules_give_the_bits_that_they_give_without_the_store(plan: str, tmp_path: Path) -> None:
    """A small cut of what docs/results/store-fuzz.md reports; salted tenants, repeats and eviction included."""
    out = tmp_path / "fuzz.json"
    program = ["-m", "tests.store.fuzz", *PLANS[plan], "--out", str(out)]
    run_program(program, tmp_path / "fuzz.log", os.environ, timeout=280)
    report = json.loads(out.read_text())
    assert report["differing"] == report["unsound"] == report["disagreements"] == []
    assert report["decisions"] > 100 or plan != "ranks"
    assert report["work_on"]["reused_rows"] > 0
    assert report["work_off"]["reused_rows"] == 0
    # Aborts take their own time, so the two engines do not count exactly the same rows.
    assert report["work_on"]["full_keys"] < report["work_off"]["full_keys"]
    store = report["store"]
    assert store["hits"] > 0
    # Of what whole prefills keep, the pool of 1 MiB holds all.
    assert store["evicted"] > 0 or plan == "whole-prefills"
    assert store["dropped"] > 0
    assert store["free"] + store["held"] == store["slots"]
    assert store["broken"] == 0


def serve(model: Path, *arguments: str) -> str:
    """Run `serve` with the store on, which must fail as a user error; returns the sentence."""
    settings = model / "store.yaml"
    settings.write_text("store: {enabled: true, snapshot_mib: 1}\n")
    return refusal("--model-path", str(model), "--config", str(settings), *arguments)


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--disable-radix-cache"], "--disable-radix-cache"), ([], "store.snapshot_mib is too small")],
    ids=["no-radix", "budget"],
)
def test_what_cannot_work_stops_before_weights_load(flags: list[str], words: str, model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    # The checkpoint has no weights: reading any would be another error.
    (tmp_path / "config.json").write_text(json.dumps({**config, "index_topk": 2048}))
    assert words in serve(tmp_path, *flags)
