"""Train the nano model: `python3 -m sgl_indexcache.nano.train --data DIR --out DIR [--resume DIR] ...`

Needs torch, numpy and safetensors only, so that it runs on a bare GPU machine. A run stops by itself before
its time budget is over, saves its state and says how far it came; the next run resumes from that state and
takes exactly the steps that one long run would have taken.
"""

import argparse
import json
import lzma
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.distill import functional
from sgl_indexcache.kernels.score_causal.reference import weigh
from sgl_indexcache.nano.distill import sample_rows
from sgl_indexcache.nano.initial import initialise
from sgl_indexcache.nano.model import NanoModel, Pieces
from sgl_indexcache.nano.optimizer import NanoOptimizer
from sgl_indexcache.nano.phrases import phrases
from sgl_indexcache.nano.recipe import RECIPES, STAGES, Phase, Recipe
from sgl_indexcache.nano.shape import SHAPES
from sgl_indexcache.nano.state import load_state, parameters_of, save_state
from sgl_indexcache.nano.tasks import make_batch

LOG_EVERY = 20


def read_shard(folder: Path, name: str, device: torch.device) -> torch.Tensor:
    """A shard of the corpus as uint8 [bytes]."""
    data = lzma.decompress((folder / f"{name}.bin.xz").read_bytes())
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)


def prepare(model: NanoModel, device: torch.device, compiled: bool) -> NanoModel:
    """Move the model, and on a GPU put the fast versions of its parts in place."""
    model.to(device)
    if device.type == "cuda":
        from sgl_indexcache.kernels.score_causal.cuda import score_causal

        model.scorer = score_causal
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if compiled:
        model.pieces = compiled_pieces()
    return model


def compiled_pieces() -> Pieces:
    """The parts of a layer through torch.compile. They see flattened rows, so one shape serves all lengths."""
    import torch._dynamo

    # Training, warm-up and evaluation differ in what needs a gradient; each is one version.
    torch._dynamo.config.cache_size_limit = 64
    return Pieces(
        torch.compile(functional.before_attention, dynamic=False),
        torch.compile(functional.after_attention, dynamic=False),
        torch.compile(functional.weighted_loss, dynamic=False),
        torch.compile(weigh, dynamic=False),
    )


class Trainer:
    """The state of a run: model, optimiser and the step to take next."""

    def __init__(self, shape: str, recipe: Recipe, text: torch.Tensor, compiled: bool) -> None:
        device = text.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = NanoModel(SHAPES[shape], dtype)
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
            "schema": 1,
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
            raise SystemExit(f"error: {folder} holds a state of shape {progress['shape']}, not {self.shape}")
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

    loss: weighted, nats. text: bytes of text alone. digits: bytes of the values asked for. kl, entropy, mass:
    see distill.row_divergence, averaged over layers.
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
    """Take steps until the recipe, the stage, the limit or the time is over; whether all asked for is done.

    Args:
        trainer: goes on from its step.
        out: folder of state and metrics.jsonl.
        deadline: time.monotonic() at which to stop.
        save_every: seconds between saved states.
        last_stage: stop after this stage.
        limit: stop at this step.
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
        phase, found = trainer.train_step()
        figures.append(found)
        after = trainer.step
        edge = after == trainer.recipe.steps or trainer.recipe.at(after)[0] != phase
        if after % LOG_EVERY == 0 or edge or after == limit:
            figures[-1].cpu()
            now = time.monotonic()
            trainer.seconds += now - begun
            line = report(trainer, phase, figures, now - begun)
            if not math.isfinite(line["loss"]):
                # The last saved state is sound: nothing is saved over it.
                raise SystemExit(f"error: the loss is {line['loss']} at step {after}")
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


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python3 -m sgl_indexcache.nano.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the packed corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, metrics and evaluation")
    parser.add_argument("--resume", type=Path, help="folder with a state to go on from; none there: begin")
    parser.add_argument("--stage", choices=("all", *STAGES), default="all", help="stop after this stage")
    parser.add_argument("--budget", type=lambda s: float(s.removesuffix("s")), default=520.0, help="seconds")
    parser.add_argument("--reserve", type=float, default=40.0, help="seconds of it for the evaluation")
    parser.add_argument("--save-every", type=float, default=60.0, help="seconds between saved states")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="nano")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument(
        "--fit", type=float, help="seconds: a new run first times all phases and fits their steps into so many"
    )
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = read_shard(chosen.data, "train", device)
    compiled = device.type == "cuda" and not chosen.no_compile
    recipe, resumed = RECIPES[chosen.recipe], chosen.resume and (chosen.resume / "state.json").exists()
    if chosen.fit and not resumed:
        recipe = recipe.fitted(probe(chosen.recipe, text, compiled), chosen.fit)
        print("steps", [phase.steps for phase in recipe.phases], flush=True)
    trainer = Trainer(chosen.recipe, recipe, text, compiled)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if resumed:
        trainer.load(chosen.resume)
        if chosen.resume.resolve() != chosen.out.resolve() and (chosen.resume / "metrics.jsonl").exists():
            shutil.copy(chosen.resume / "metrics.jsonl", chosen.out)
    size = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"{size} parameters, {text.numel()} bytes, step {trainer.step}, {device}", flush=True)
    last = "sparse" if chosen.stage == "all" else chosen.stage
    deadline = started + chosen.budget - chosen.reserve
    finished = train(trainer, chosen.out, deadline, chosen.save_every, last)
    print(f"{'finished' if finished else 'stopped'} at step {trainer.step} of {trainer.recipe.steps}", flush=True)
    if chosen.reserve > 0:
        from sgl_indexcache.nano.evaluate import quick

        found = quick(trainer.model, read_shard(chosen.data, "heldout", device))
        (chosen.out / "eval.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found), flush=True)
    print(f"{time.monotonic() - started:.0f} s in all, {trainer.seconds:.0f} s of steps", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
