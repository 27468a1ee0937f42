"""Training on a toy: what the optimiser does, that it stops and resumes without a trace, what is exported."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.layout import shapes_of
from sgl_indexcache.nano.model import NanoModel
from sgl_indexcache.nano.shape import TOY
from sgl_indexcache.nano.training.corpus import Piece, pack
from sgl_indexcache.nano.training.export import export
from sgl_indexcache.nano.training.initial import initialise
from sgl_indexcache.nano.training.optimizer import NanoOptimizer, orthogonalise
from sgl_indexcache.nano.training.recipe import RECIPES, Phase, Recipe
from sgl_indexcache.nano.training.recipe import TOY as TOY_RECIPE
from sgl_indexcache.nano.training.state import load_state, save_state
from sgl_indexcache.nano.training.train import Trainer, TrainingError, train

TEXT = torch.frombuffer(
    bytearray(b"Some text to learn from, again and again, line by line.\n" * 100), dtype=torch.uint8
)
SHORT = Recipe(
    phases=(
        Phase(stage="dense", steps=3, length=384, batch=2, rate=(1.0, 1.0)),
        Phase(stage="warmup", steps=3, length=384, batch=2, rate=(1.0, 0.5), rows=8),
        Phase(stage="sparse", steps=3, length=384, batch=2, rate=(0.3, 0.0), rows=8),
    ),
    ramp=2,
)
FIGURES = ("step", "phase", "loss", "text", "digits", "kl", "entropy", "mass", "rate")


def run(out: Path, stops: list[int | None]) -> list[dict[str, object]]:
    """Train SHORT, saving and beginning a new trainer at every stop; the last step's line of each run."""
    for stop in stops:
        trainer = Trainer("toy", SHORT, TEXT, compiled=False)
        if (out / "state.json").exists():
            trainer.load(out)
        train(trainer, out, float("inf"), 1e9, "sparse", stop)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in FIGURES} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stops at the same steps for its state to be rounded, but goes on with the same trainer."""
    out = tmp_path_factory.mktemp("whole") / "run"
    trainer = Trainer("toy", SHORT, TEXT, compiled=False)
    for stop in (2, 5, None):
        train(trainer, out, float("inf"), 1e9, "sparse", stop)
    return out


def test_two_stops_change_nothing(whole: Path, tmp_path: Path) -> None:
    resumed = run(tmp_path / "run", [2, 5, None])
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert resumed == [{name: line[name] for name in FIGURES} for line in lines]
    assert resumed[-1]["step"] == SHORT.steps
    one, two = load_state(whole)[0], load_state(tmp_path / "run")[0]
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_each_stage_trains_its_own_parameters() -> None:
    trainer = Trainer("toy", SHORT, TEXT, compiled=False)

    def moved(steps: int) -> set[bool]:
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        for _ in range(steps):
            trainer.train_step()
        after = trainer.model.state_dict()
        return {".indexer." in name for name in before if not torch.equal(before[name], after[name])}

    assert moved(3) == {False}, "dense: the backbone"
    assert moved(3) == {True}, "warm-up: the indexers"
    assert moved(2) == {False, True}, "sparse: both"


def test_training_learns() -> None:
    trainer = Trainer("toy", SHORT.with_steps([15, 1, 1]), TEXT, compiled=False)
    losses = [float(trainer.train_step()[1][1]) for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


def test_a_stage_can_be_the_last(tmp_path: Path) -> None:
    trainer = Trainer("toy", SHORT, TEXT, compiled=False)
    assert train(trainer, tmp_path / "run", float("inf"), 1e9, "dense")
    assert trainer.step == 3


def test_a_loss_that_is_no_number_stops_the_run_and_saves_nothing(tmp_path: Path) -> None:
    trainer = Trainer("toy", SHORT, TEXT, compiled=False)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 3"):
        train(trainer, tmp_path / "run", float("inf"), 1e9, "sparse")
    assert not (tmp_path / "run" / "state.json").exists()


def test_another_shape_is_refused(whole: Path) -> None:
    trainer = Trainer("toy", SHORT, TEXT, compiled=False)
    trainer.shape = "nano"
    with pytest.raises(TrainingError, match="toy"):
        trainer.load(whole)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8)])
def test_orthogonalised_matrices_have_singular_values_of_about_one(shape: tuple[int, int, int]) -> None:
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(stack, torch.float32))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_every_parameter_is_stepped_once() -> None:
    model = NanoModel(TOY)
    optimizer = NanoOptimizer(model)
    stepped = [id(p) for stack in optimizer.stacks.values() for p in stack.parameters]
    stepped += [id(p) for group in optimizer.adam.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in model.parameters())


def test_the_rate_ramps_and_falls() -> None:
    rates = [TOY_RECIPE.at(step)[1] for step in range(TOY_RECIPE.steps)]
    assert rates[0] == pytest.approx(0.25)
    assert rates[-1] < 0.1
    with pytest.raises(IndexError):
        TOY_RECIPE.at(TOY_RECIPE.steps)


def test_steps_are_fitted_to_a_time() -> None:
    steps = [phase.steps for phase in TOY_RECIPE.fitted([0.1, 0.2, 0.1, 0.4], 100.0).phases]
    assert steps == [400, 100, 200, 50]


def test_states_are_saved_in_pieces_and_keep_their_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl_indexcache.nano.training.state.PIECE_BYTES", 1000)
    tensors = {f"t{n}": torch.full((200,), float(n)) for n in range(4)}
    folder = tmp_path / "state"
    save_state(folder, tensors, {"step": 1})
    (folder / "metrics.jsonl").write_text("kept\n")
    save_state(folder, {"t0": tensors["t0"]}, {"step": 2})
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.jsonl", "state-0.safetensors", "state.json"]
    save_state(folder, tensors, {"step": 3})
    assert len(list(folder.glob("state-*.safetensors"))) == 4
    loaded, progress = load_state(folder)
    assert progress == {"step": 3}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_an_export_has_the_checkpoints_names_and_size(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = NanoModel(TOY)
    initialise(model, 0)
    folder = export(model.state_dict(), TOY, tmp_path / "out")
    found = load_file(folder / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == dict(shapes_of(TOY.config()))
    assert all(tensor.dtype == torch.bfloat16 for tensor in found.values())
    size = 2 * sum(tensor.numel() for tensor in found.values())
    assert size < (folder / "model.safetensors").stat().st_size < size + 30_000
    with pytest.raises(ValueError, match="not those of the shape"):
        export(model.state_dict(), replace(TOY, hidden_size=32), tmp_path / "other")


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(RECIPES, "toy", SHORT)
    pack([Piece(bytes([n]) * 32, bytes(TEXT.tolist())) for n in (0, 1)], tmp_path)
    out = tmp_path / "run"
    arguments = ["train", "--data", str(tmp_path), "--out", str(out), "--recipe", "toy"]
    arguments += ["--reserve", "0", "--budget", "500s"]
    assert main([*arguments, "--stage", "dense"]) == 0
    assert "stopped" not in capsys.readouterr().out
    assert main([*arguments, "--resume", str(out)]) == 0
    assert "finished at step 9 of 9" in capsys.readouterr().out
    assert main(["export", str(out), str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "tokenizer.json").exists()
    capsys.readouterr()
    assert main([*arguments, "--stage", "last"]) == 2
    assert "stage 'last' is unknown" in capsys.readouterr().err
    assert main([*arguments, "--budget", "9m"]) == 2
    assert "'9m' is no time" in capsys.readouterr().err
