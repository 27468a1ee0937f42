"""Train the nano model: `python3 -m sgl_indexcache.nano train --data DIR --out DIR [--resume DIR] ...`

A run stops by itself before its time budget is over, saves its state and says how far it came; the next run resumes
from that state and takes exactly the steps that one long run would have taken.
"""

import json
import math
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sgl_indexcache.errors import UserError
from sgl_indexcache.nano.divergence import sample_rows
from sgl_indexcache.nano.model import NanoModel
from sgl_indexcache.nano.phrases import phrases
from sgl_indexcache.nano.shape import SHAPES
from sgl_indexcache.nano.training.device import default_device, dtype_of, prepare
from sgl_indexcache.nano.training.initial import initialise
from sgl_indexcache.nano.training.measures import quick
from sgl_indexcache.nano.training.optimizer import NanoOptimizer
from sgl_indexcache.nano.training.recipe import RECIPES, STAGES, Phase, Recipe
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.state import load_state, parameters_of, save_state
from sgl_indexcache.nano.training.tasks import make_batch
from sgl_indexcache.results import envelope

SCHEMA = "sgl_indexcache.nano.plan/1"
"""Of state.json, which the model's card keeps as the plan."""
LOG_EVERY = 20


class TrainingError(UserError):
    """A run that cannot go on, or options that name nothing."""


class Trainer:
    """The state of a run: model, optimiser and the step to take next."""

    def __init__(self, shape: str, recipe: Recipe, text: torch.Tensor, compiled: bool) -> None:
        device = text.device
        model = NanoModel(SHAPES[shape], dtype_of(device))
        initialise(model, recipe.seed)
        self.model = prepare(model, device, compiled)
        self.optimizer = NanoOptimizer(self.model)
        self.recipe, self.text, self.shape = recipe, text, shape
        self.tables = phrases(device)
        self.step = 0
        self.seconds = 0.0
        """time of all steps so far, of earlier runs too"""

    def train_step(self) -> tuple[Phase, torch.Tensor]:
        """One step; its phase and the figures float32 [6] on the device (see `report`)."""
        phase, rate = self.recipe.at(self.step)
        generator = torch.Generator(self.text.device).manual_seed(1_000_003 * (self.recipe.seed + 1) + self.step)
        batch = make_batch(self.text, phase.batch, phase.length, phase.mix, self.tables, generator)
        rows = sample_rows(batch.answers, phase.rows, generator) if phase.rows else None
        learn = phase.stage != "warmup"
        stream, measured = self.model.hidden(batch.tokens, phase.stage == "sparse", rows, learn)
        with torch.set_grad_enabled(learn):
            loss, each = self.model.loss(stream, batch.targets, batch.weights)
        total = loss if rows is None else measured[:, 0].sum() + (loss if learn else 0.0)
        torch.autograd.backward(total)
        self.optimizer.step(rate)
        self.step += 1
        each = each.view(batch.targets.shape)
        plain = (batch.weights == 1) & ~batch.answers
        figures = (
            loss.detach(),
            (each * plain).sum() / plain.sum(),
            (each * batch.digits).sum() / batch.digits.sum().clamp(min=1),
            *measured.detach().mean(0).unbind(),
        )
        return phase, torch.stack(figures)

    def save(self, folder: Path) -> None:
        """Write the state; the folder's other files stay."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in self.optimizer.state().items()}
        progress = {
            **envelope(SCHEMA, on_device=True),
            "shape": self.shape,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "steps": [phase.steps for phase in self.recipe.phases],
        }
        save_state(folder, tensors, progress)

    def load(self, folder: Path) -> None:
        """Go on where a saved state stopped."""
        tensors, progress = load_state(folder)
        if progress["shape"] != self.shape:
            raise TrainingError(f"{folder} holds a state of shape {progress['shape']}, not {self.shape}")
        self.model.load_state_dict(parameters_of(tensors))
        prefix = "optimizer/"
        self.optimizer.load({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
        self.step, self.seconds = int(progress["step"]), float(progress["seconds"])
        self.recipe = self.recipe.with_steps(progress["steps"])


def probe(name: str, text: torch.Tensor, compiled: bool, steps: int = 4) -> list[float]:
    """Seconds a step of each phase of a recipe on this machine, from a few steps of each on a throw-away
    model; one JSON a line is printed."""
    recipe = RECIPES[name]
    short = recipe.with_steps([steps + 2] * len(recipe.phases))
    trainer = Trainer(name, short, text, compiled)
    seconds = []
    for phase in recipe.phases:
        times = []
        for _ in range(steps + 2):
            begun = time.monotonic()
            trainer.train_step()[1].cpu()
            times.append(time.monotonic() - begun)
        seconds.append(min(times[2:]))
        line = {"phase": phase.name, "first_s": round(times[0], 2), "step_s": round(seconds[-1], 4)}
        line["tokens_per_s"] = round(phase.length * phase.batch / seconds[-1])
        if text.is_cuda:
            line["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
            torch.cuda.reset_peak_memory_stats()
        print(json.dumps(line), flush=True)
    return seconds


def report(trainer: Trainer, phase: Phase, figures: list[torch.Tensor], seconds: float) -> dict[str, Any]:
    """The means of some steps of one phase, as a line of metrics.jsonl.

    loss               weighted, nats
    text               of bytes of text alone
    digits             of bytes of the values asked for
    kl, entropy, mass  see divergence.row_divergence; averaged over layers
    """
    names = ("loss", "text", "digits", "kl", "entropy", "mass")
    means = torch.stack(figures).mean(0).tolist()
    line: dict[str, Any] = {
        "step": trainer.step,
        "phase": phase.name,
        **{name: round(value, 4) for name, value in zip(names, means, strict=True)},
        "rate": round(trainer.recipe.at(trainer.step - 1)[1], 4),
        "tokens_per_s": round(phase.length * phase.batch * len(figures) / seconds),
        "seconds": round(trainer.seconds, 1),
    }
    if trainer.text.is_cuda:
        line["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        torch.cuda.reset_peak_memory_stats()
    return line


def train(
    trainer: Trainer, out: Path, deadline: float, save_every: float, last_stage: str, limit: int | None = None
) -> bool:
    """Take steps until the recipe, the stage, the limit or the time is over; whether the recipe or the stage is.

    trainer     goes on from its step
    out         folder of state and metrics.jsonl
    deadline    time.monotonic() at which to stop
    save_every  seconds between saved states
    last_stage  stop after this stage
    limit       stop at this step

    Raises:
        TrainingError: the loss is no finite number.
    """
    out.mkdir(parents=True, exist_ok=True)
    allowed = STAGES[: STAGES.index(last_stage) + 1]
    figures: list[torch.Tensor] = []
    begun = saved = time.monotonic()
    finished = False
    while True:
        finished = trainer.step >= trainer.recipe.steps or trainer.recipe.at(trainer.step)[0].stage not in allowed
        if finished or time.monotonic() > deadline or trainer.step == limit:
            break
        phase, measured = trainer.train_step()
        figures.append(measured)
        after = trainer.step
        edge = after == trainer.recipe.steps or trainer.recipe.at(after)[0] != phase
        if after % LOG_EVERY == 0 or edge or after == limit:
            figures[-1].cpu()
            now = time.monotonic()
            trainer.seconds += now - begun
            line = report(trainer, phase, figures, now - begun)
            if not math.isfinite(line["loss"]):
                # The last saved state is sound: nothing is saved over it.
                raise TrainingError(f"the loss is {line['loss']} at step {after}")
            with (out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            if after % (5 * LOG_EVERY) == 0 or edge:
                print(json.dumps(line), f"left {deadline - now:.0f} s", flush=True)
            figures, begun = [], now
            if now - saved > save_every:
                trainer.save(out)
                saved = begun = time.monotonic()
    trainer.seconds += time.monotonic() - begun if figures else 0.0
    trainer.save(out)
    return finished


def _seconds(text: str) -> float:
    """Of "545" or "545s"."""
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        raise TrainingError(f"{text!r} is no time: write seconds, such as 520s") from None


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for state, metrics and evaluation.")],
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Folder with a state to go on from; without a state: begin.")
    ] = None,
    stage: Annotated[str, typer.Option("--stage", help=f"Stop after this stage: all, {', '.join(STAGES)}.")] = "all",
    budget: Annotated[str, typer.Option("--budget", help="Seconds, such as 520 or 520s.")] = "520",
    reserve: Annotated[float, typer.Option("--reserve", help="Seconds of them for the evaluation.")] = 40.0,
    save_every: Annotated[float, typer.Option("--save-every", help="Seconds between saved states.")] = 60.0,
    recipe: Annotated[str, typer.Option("--recipe", help=" or ".join(RECIPES))] = "nano",
    no_compile: Annotated[bool, typer.Option("--no-compile", help="Leave torch.compile out.")] = False,
    fit: Annotated[
        float | None,
        typer.Option("--fit", help="Seconds: a new run first times all phases and fits their steps into so many."),
    ] = None,
) -> None:
    """Train the model, or go on with a run.

    It stops before its time budget is over and saves its state. The next run with --resume takes exactly the steps that
    one long run would have taken.
    """
    started, limit = time.monotonic(), _seconds(budget)
    for name, value, names in (("stage", stage, ("all", *STAGES)), ("recipe", recipe, tuple(RECIPES))):
        if value not in names:
            raise TrainingError(f"{name} {value!r} is unknown: use one of {', '.join(names)}")
    device = default_device()
    text = read_shard(data, "train", device)
    compiled = device.type == "cuda" and not no_compile
    phases, resumed = RECIPES[recipe], resume is not None and (resume / "state.json").exists()
    if fit and not resumed:
        phases = phases.fitted(probe(recipe, text, compiled), fit)
        print("steps", [phase.steps for phase in phases.phases], flush=True)
    trainer = Trainer(recipe, phases, text, compiled)
    out.mkdir(parents=True, exist_ok=True)
    if resume is not None and resumed:
        trainer.load(resume)
        if resume.resolve() != out.resolve() and (resume / "metrics.jsonl").exists():
            shutil.copy(resume / "metrics.jsonl", out)
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"{size} parameters, {text.numel()} bytes, step {trainer.step}, {device}", flush=True)
    last = "sparse" if stage == "all" else stage
    finished = train(trainer, out, started + limit - reserve, save_every, last)
    print(f"{'finished' if finished else 'stopped'} at step {trainer.step} of {trainer.recipe.steps}", flush=True)
    if reserve > 0:
        figures = quick(trainer.model, read_shard(data, "heldout", device))
        (out / "eval.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps(figures), flush=True)
    print(f"{time.monotonic() - started:.0f} s in all, {trainer.seconds:.0f} s of steps", flush=True)
