"""The result command at toy scale: it stops at its budget, goes on, measures, and its page is written."""

import json
from pathlib import Path

import pytest
import torch

from sgl_indexcache.distill.checkpoint import Checkpoint
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.model import DsaModel, Mode
from sgl_indexcache.nano.cards import distilled_card
from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.model import NanoModel
from sgl_indexcache.nano.shape import TOY
from sgl_indexcache.nano.studies import distillation
from sgl_indexcache.nano.training import measures
from sgl_indexcache.nano.training.corpus import Piece, pack
from sgl_indexcache.nano.training.export import export
from sgl_indexcache.nano.training.initial import initialise
from sgl_indexcache.pattern import Pattern, read_config


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint, no weight of it zero."""
    model = NanoModel(TOY)
    initialise(model, 1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return export(model.state_dict(), TOY, tmp_path_factory.mktemp("toy") / "model")


def test_the_measured_model_is_the_trained_one(toy: Path) -> None:
    """Under a pattern, the nano model (which measures) gives the logits of the distilled model (which learns)."""
    pattern = Pattern("FSF")
    learns = DsaModel(ModelConfig.of(read_config(toy)), pattern)
    measures = NanoModel(TOY)
    for model in (learns, measures):
        Checkpoint(toy).load(model)
    tokens = torch.randint(0, 256, (1, 90), generator=torch.Generator().manual_seed(2))
    all_full = measures(tokens).detach()
    measures.pattern = pattern
    shared = measures(tokens).detach()
    torch.testing.assert_close(shared, learns.logits(tokens, Mode(sparse=True)), atol=2e-4, rtol=1e-4)
    assert not torch.allclose(shared, all_full, atol=1e-3)


def test_the_command_and_the_page(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "DEPTHS", 1)
    monkeypatch.setattr(measures, "TOKENS", 512)
    every = distillation.systems(3, ["FFS"], 2, 1)
    assert len({system.name for system in every}) == len(every)
    kept = ("full", "uniform-1-4", "distilled-1-4", "distilled-1-4-sparse", "own-layer-1-4")
    monkeypatch.setattr(distillation, "systems", lambda *_: [system for system in every if system.name in kept])
    text = b"Some text to learn from, again and again, line by line.\n" * 100
    pack([Piece(bytes([n]) * 32, text) for n in (0, 1)], tmp_path)
    results = tmp_path / "results"
    out = tmp_path / "run"
    command = ["distill", "--data", str(tmp_path), "--out", str(out), "--states", str(tmp_path / "states"), "--small"]
    command += ["--checkpoint", str(toy), "--sequences", "1", "--queries", "16"]
    command += ["--warmup-steps", "2", "--sparse-steps", "1"]
    assert main([*command, "--budget", "0"]) == 3
    assert not list(out.glob("*/result.json"))
    assert main(command) == 0
    assert main(["distill-card", "--run", str(out), "--results", str(results)]) == 0
    by_name = {each["name"]: each for each in distilled_card.read(results / "raw" / "distill")}
    assert set(by_name) == set(kept)
    assert by_name["distilled-1-4"]["pattern"] == "FFS"
    assert by_name["distilled-1-4"]["loss"] != by_name["uniform-1-4"]["loss"]
    assert not list((tmp_path / "states").iterdir()), "finished training leaves no states"
    before = (out / "full" / "result.json").stat().st_mtime_ns
    assert main(command) == 0
    assert (out / "full" / "result.json").stat().st_mtime_ns == before, "what is done is not done again"
    assert main(["distill-card", "--results", str(results)]) == 0
    page = (results / "distill.md").read_text()
    loss = next(iter(by_name["distilled-1-4"]["loss"].values()))["loss"]
    assert f"{loss:.4f}" in page
    assert "Cross-layer term at uniform 1/4" in page
    assert str(tmp_path) not in page
    assert (results / "plots" / "distill.png").stat().st_size > 1000
    first = json.loads((out / "runs.jsonl").read_text().splitlines()[0])
    assert first["done"] == []
    assert first["command"].startswith("python -m sgl_indexcache.nano distill --data ")
