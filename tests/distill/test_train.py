"""Training on the tiny model: what learns, exact resume, accumulation, a loss that is no number."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.distill import data, state
from sgl_indexcache.distill.checkpoint import Checkpoint
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.distill.memory import plan_memory
from sgl_indexcache.distill.parallel import Processes
from sgl_indexcache.distill.plan import Plan, Stage
from sgl_indexcache.distill.progress import Progress
from sgl_indexcache.distill.train import Trainer, build, sample_rows, train
from sgl_indexcache.live.model import read_model
from sgl_indexcache.pattern import Pattern, read_config

ALONE = Processes(0, 1, torch.device("cpu"), None)
SMALL: dict[str, Any] = {"length": 48, "sequences": 2, "log_every": 1, "save_every": 2, "ramp": 1, "warmup_rate": 3e-3}
Make = Callable[..., Trainer]


@pytest.fixture
def make(tiny: Path, lines: Path, tmp_path: Path) -> Make:
    source = data.pack(lines, read_model(tiny), 48, tmp_path / "packed")

    def trainer(stage: Stage = "warmup", letters: str = "FSSS", **changes: Any) -> Trainer:
        plan = Plan(**{"warmup_steps": 6, "sparse_steps": 6, **SMALL, **changes})
        config = ModelConfig.of(read_config(tiny))
        model = build(Checkpoint(tiny), config, Pattern(letters), stage, torch.float32, ALONE)
        return Trainer(model, source, plan, stage, ALONE)

    return trainer


def run(trainer: Trainer, folder: Path) -> list[dict[str, Any]]:
    """Train to the end; the log's lines without what differs from machine to machine."""
    train(trainer, folder / "state", {"plan": trainer.plan.described()}, Progress(folder / "log.jsonl", lambda _: None))
    return read_log(folder)


def read_log(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_s", "peak_gb", "left_s")} for line in found]


class KilledError(Exception):
    pass


def killed_at(trainer: Trainer, step: int) -> None:
    """Make the trainer die at a step, as a kill would: after the log's line of the step before, before any save."""
    take = trainer.take_step

    def take_or_die(measure: bool = False) -> Any:
        if trainer.step == step:
            raise KilledError
        return take(measure)

    trainer.take_step = take_or_die  # type: ignore[method-assign]


@pytest.mark.parametrize("stage", ["warmup", "sparse"])
def test_a_killed_run_goes_on_exactly(make: Make, tmp_path: Path, stage: Stage) -> None:
    whole = make(stage, sparse_rate=1e-3)
    expected = run(whole, tmp_path / "whole")
    assert [line["step"] for line in expected] == [1, 2, 3, 4, 5, 6]
    broken = make(stage, sparse_rate=1e-3)
    killed_at(broken, 5)
    with pytest.raises(KilledError):
        run(broken, tmp_path / "broken")
    assert len(read_log(tmp_path / "broken")) == 5
    resumed = make(stage, sparse_rate=1e-3)
    assert run(resumed, tmp_path / "broken") == expected
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
    assert len(state.states(tmp_path / "broken" / "state")) == state.KEPT


def test_the_warmup_trains_the_retained_indexers_alone_and_brings_the_divergence_down(
    make: Make, tmp_path: Path
) -> None:
    trainer = make(warmup_steps=30, letters="FSFS", warmup_rate=1e-2)
    assert {name.split(".")[2] for name in trainer.parameters} == {"0", "2"}
    assert all(".indexer." in name for name in trainer.parameters)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    found = run(trainer, tmp_path)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == set(trainer.parameters)
    assert sum(found[-1]["kl"]) < 0.7 * sum(found[0]["kl"])
    assert found[0]["lm"] is None


def test_the_sparse_stage_trains_everything(make: Make, tmp_path: Path) -> None:
    trainer = make("sparse", sparse_rate=1e-2, sparse_steps=8)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    found = run(trainer, tmp_path)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == set(before)
    assert found[-1]["lm"] < found[0]["lm"]


def test_accumulated_micro_batches_are_one_batch(make: Make) -> None:
    one, two = make(sequences=4, accumulate=1), make(sequences=1, accumulate=4)
    figures = [trainer.take_step(measure=True) for trainer in (one, two)]
    assert figures[0].kl == pytest.approx(figures[1].kl, rel=1e-5)
    assert figures[0].mass == pytest.approx(figures[1].mass, rel=1e-5)
    assert figures[0].norm == pytest.approx(figures[1].norm, rel=1e-4)


def test_a_loss_that_is_no_number_keeps_the_last_good_step(make: Make, tmp_path: Path) -> None:
    trainer = make()
    take = trainer.take_step

    def poisoned(measure: bool = False) -> Any:
        if trainer.step == 3:
            with torch.no_grad():
                trainer.model.model.embed_tokens.weight.fill_(float("nan"))
        return take(measure)

    trainer.take_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DistillError, match="step 4 of the warmup stage gave loss nan"):
        run(trainer, tmp_path)
    assert state.states(tmp_path / "state")[-1].name == "step-00000003"
    good = make()
    for _ in range(3):
        good.take_step()
    for name, parameter in good.parameters.items():
        assert torch.equal(parameter, trainer.parameters[name])
        assert parameter.isfinite().all()


def test_a_state_of_another_run_is_refused(make: Make, tmp_path: Path) -> None:
    run(make(warmup_steps=2), tmp_path)
    with pytest.raises(DistillError, match="another plan"):
        run(make(warmup_steps=3), tmp_path)


def test_sampled_queries_estimate_the_whole(make: Make) -> None:
    """The weighted mean over many drawn queries comes close to the mean over all of them."""
    batch = make().source.batch([0, 1])
    value = torch.rand(batch.tokens.shape, generator=torch.Generator().manual_seed(1))
    rows, weights = sample_rows(batch, None, [0, 1])
    telling = weights > 0
    wanted = (value * telling).sum() / telling.sum()
    drawn, share = sample_rows(batch, 40, [0, 1])
    assert drawn.shape == (2, 40)
    assert torch.equal(drawn, sample_rows(batch, 40, [0, 1])[0])
    assert not torch.equal(drawn, sample_rows(batch, 40, [2, 3])[0])
    assert bool((share > 0).all()), "queries that see themselves alone are never drawn"
    found = torch.stack(
        [
            (value.gather(1, some) * weight).sum()
            for some, weight in (sample_rows(batch, 40, [n, n + 1]) for n in range(0, 400, 2))
        ]
    ).mean()
    assert found == pytest.approx(float(wanted), abs=0.02)
    assert rows.shape == (2, 48)


def test_memory_is_planned_from_the_models_tensors(make: Make) -> None:
    trainer = make(letters="FFFF")
    items = {item.what: item.size for item in plan_memory(trainer.model, trainer.plan, "warmup", 1, kernel=False)}
    learning = sum(p.nbytes for p in trainer.parameters.values())
    assert items["parameters that learn"] == items["their gradients"] == learning
    assert items["the optimiser's moments"] == 2 * learning
    whole = sum(p.nbytes for p in trainer.model.parameters())
    assert items["parameters at rest"] == whole - learning
    halves = {item.what: item.size for item in plan_memory(trainer.model, trainer.plan, "warmup", 2, kernel=False)}
    assert halves["parameters that learn"] == learning // 2
    longer = Plan(**{**SMALL, "length": 480, "slice_rows": 16})
    # The loss's slice grows with the length, not with its square.
    slice_ = [
        next(
            i.size for i in plan_memory(trainer.model, p, "warmup", 1, kernel=True) if i.what == "one slice of the loss"
        )
        for p in (Plan(**{**SMALL, "slice_rows": 16}), longer)
    ]
    assert slice_[1] == 10 * slice_[0]
