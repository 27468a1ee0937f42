"""Distill the nano model's retained indexers and measure what it brings: one command for the whole result.

    python -m sgl_indexcache.nano distill --data DIR --out DIR [--budget SECONDS] [--searched LETTERS ...]

It measures the checkpoint under every pattern as it is, distills uniform 1/2 and 1/4 (each with the cross-layer term
and with every indexer's own layer alone), trains stage 2, and measures again. A run that its budget stops goes on
where it was when it is started again with the same --out and --states. Every system gives OUT/<name>/result.json
and log.jsonl; trained tensors are kept in bf16 beside them (stage 1: indexers.safetensors, a few MB; stage 2: the
whole model, 12 MB). Needs torch, numpy, safetensors, PyYAML and typer only.
"""

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file

from sgl_indexcache.distill.checkpoint import Checkpoint, gather
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.data import Batch
from sgl_indexcache.distill.parallel import Processes
from sgl_indexcache.distill.plan import Plan, Stage
from sgl_indexcache.distill.progress import Progress
from sgl_indexcache.distill.train import Trainer, build, dtype_of, train
from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.divergence import row_share
from sgl_indexcache.nano.model import NanoModel
from sgl_indexcache.nano.phrases import phrases
from sgl_indexcache.nano.shape import SHAPES
from sgl_indexcache.nano.training.device import default_device, prepare
from sgl_indexcache.nano.training.measures import held_out_loss, indexer_recall, needle_accuracy
from sgl_indexcache.nano.training.recipe import Mix
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.tasks import make_batch
from sgl_indexcache.pattern import Pattern, read_config
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.nano.distilled/1"
SEED = 30_000_001
"""Of the training sequences: none of those that the model was trained on before."""


class CorpusSource:
    """Text of the corpus with facts and copies, as the nano model was trained on; a data.Source."""

    def __init__(self, text: torch.Tensor, length: int) -> None:
        self.text, self.length, self.tables = text, length, phrases(text.device)

    def described(self) -> dict[str, Any]:
        return {"bytes": self.text.numel(), "length": self.length, "seed": SEED}

    def batch(self, numbers: Sequence[int]) -> Batch:
        generator = torch.Generator(self.text.device).manual_seed(SEED + numbers[0])
        drawn = make_batch(self.text, len(numbers), self.length, Mix(), self.tables, generator)
        return Batch(drawn.tokens, drawn.targets, drawn.weights, None, row_share(drawn.answers))


@dataclass(frozen=True, slots=True)
class System:
    """What is measured.

    steps        of (warm-up, sparse); none: the checkpoint as it is, under the pattern
    cross_layer  as in plan.Plan
    after        the system whose indexers it begins with (its stage 1)
    """

    name: str
    pattern: Pattern
    steps: tuple[int, int] = (0, 0)
    cross_layer: bool = True
    after: str | None = None


def systems(layers: int, searched: Sequence[str], warmup: int, sparse: int) -> list[System]:
    """All systems, in the order in which they are run: what matters most comes first."""
    full, half, quarter, eighth = (Pattern.uniform(layers, freq) for freq in (1, 2, 4, 8))
    every = [System("full", full), System("uniform-1-2", half), System("uniform-1-4", quarter)]
    every.append(System("uniform-1-8", eighth))
    for letters in searched:
        pattern = Pattern.parse(letters, layers)
        every.append(System(f"searched-{len(pattern.full_layers)}-of-{layers}", pattern))
    for name, pattern in (("1-4", quarter), ("1-2", half)):
        every.append(System(f"distilled-{name}", pattern, (warmup, 0)))
    every.append(System("distilled-1-4-sparse", quarter, (0, sparse), after="distilled-1-4"))
    # The rest of the model learns in stage 2, too: what more training alone brings is measured beside it.
    every.append(System("full-sparse", full, (0, sparse)))
    for name, pattern in (("1-4", quarter), ("1-2", half)):
        every.append(System(f"own-layer-{name}", pattern, (warmup, 0), cross_layer=False))
    every.append(System("distilled-1-2-sparse", half, (0, sparse), after="distilled-1-2"))
    return every


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: lengths and sequences of the loss, repeats of the needles, batches of the recall."""

    lengths: tuple[int, ...]
    sequences: int
    repeats: int
    batches: int


def measure(model: NanoModel, text: torch.Tensor, scale: Scale) -> dict[str, Any]:
    """Held-out loss by length, needles at the longest, recall of attention's mass at the longest; all sparse."""
    longest = scale.lengths[-1]
    return {
        "loss": {
            str(n): held_out_loss(model, text, n, max(1, scale.sequences * longest // n), True) for n in scale.lengths
        },
        "needle": needle_accuracy(model, text, longest, scale.repeats, True),
        "needle_among_7": needle_accuracy(model, text, longest, scale.repeats, True, 7),
        "recall": indexer_recall(model, text, longest, 64, scale.batches),
    }


class Result:
    """The whole result in one folder."""

    def __init__(
        self,
        checkpoint: Path,
        data: Path,
        out: Path,
        states: Path,
        plan: dict[str, Any],
        scale: Scale,
        device: torch.device,
    ) -> None:
        self.source, self.out, self.states = Checkpoint(checkpoint), out, states
        self.plan, self.scale, self.device = plan, scale, device
        self.config = ModelConfig.of(read_config(checkpoint))
        self.train_text = read_shard(data, "train", device)
        self.held_out = read_shard(data, "heldout", device)

    def run(self, system: System, deadline: float) -> bool:
        """Train and measure one system, if that was not done yet; whether it is done."""
        folder = self.out / system.name
        if (folder / "result.json").exists():
            return True
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        trained: dict[str, torch.Tensor] = {}
        if system.after:
            trained = load_file(self.out / system.after / "indexers.safetensors")
        for stage, steps in zip(("warmup", "sparse"), system.steps, strict=True):
            if steps:
                learnt = self._train(system, stage, folder, trained, deadline)  # type: ignore[arg-type]
                if learnt is None:
                    return False
                trained |= learnt
        seconds = time.monotonic() - begun
        measured = self._measure(system.pattern, trained)
        if any(system.steps):
            name = "indexers.safetensors" if not system.steps[1] else "model.safetensors"
            save_file({n: t.bfloat16().contiguous() for n, t in trained.items()}, folder / name)
        result = {
            "name": system.name,
            "pattern": system.pattern.letters,
            "steps": dict(zip(("warmup", "sparse"), system.steps, strict=True)),
            "cross_layer": system.cross_layer,
            "after": system.after,
            "train_seconds": round(seconds, 1),
            "measure_seconds": round(time.monotonic() - begun - seconds, 1),
            **measured,
        }
        write_json(folder / "result.json", SCHEMA, result, on_device=True)
        shutil.rmtree(self.states / system.name, ignore_errors=True)
        loss = measured["loss"][str(self.scale.lengths[-1])]["loss"]
        print(
            f"{system.name} {system.pattern}: loss {loss}, needles {measured['needle']['accuracy']}, among 7 "
            f"{measured['needle_among_7']['accuracy']}, mass {measured['recall']['text']['mean_mass']} "
            f"({seconds:.0f} s to train, {result['measure_seconds']} s to measure)",
            flush=True,
        )
        return True

    def _train(
        self, system: System, stage: Stage, folder: Path, start: dict[str, torch.Tensor], deadline: float
    ) -> dict[str, torch.Tensor] | None:
        """Train a stage from these tensors on; what learnt, or None if the time was over before."""
        warmup, sparse = system.steps
        plan = Plan(warmup_steps=warmup, sparse_steps=sparse, cross_layer=system.cross_layer, **self.plan)
        processes = Processes(0, 1, self.device, None)
        dtype = dtype_of(plan, self.device)
        model = build(self.source, self.config, system.pattern, stage, dtype, processes, start)
        trainer = Trainer(model, CorpusSource(self.train_text, plan.length), plan, stage, processes)
        expected = {"plan": plan.described(), "pattern": system.pattern.letters, "data": trainer.source.described()}
        report = Progress(folder / "log.jsonl", lambda line: print(f"{system.name} {line}", flush=True))
        states = self.states / system.name / stage
        if not train(trainer, states, expected, report, deadline):
            return None
        return {name: gather(parameter) for name, parameter in trainer.parameters.items()}

    def _measure(self, pattern: Pattern, trained: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Figures of the checkpoint with the trained tensors, rounded as a checkpoint would be."""
        shape = next(each for each in SHAPES.values() if each.config()["hidden_size"] == self.config.hidden_size)
        model = NanoModel(shape, torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        self.source.load(model, {name: tensor.bfloat16() for name, tensor in trained.items()})
        model.pattern = pattern
        return measure(prepare(model, self.device, False), self.held_out, self.scale)


def command_line(words: Sequence[str]) -> str:
    """For the report; folders, which mean nothing on another machine, by their last name alone."""
    return " ".join(
        ["python -m sgl_indexcache.nano distill", *(Path(word).name if "/" in word else word for word in words)]
    )


def command(
    context: typer.Context,
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    states: Annotated[
        Path | None, typer.Option("--states", help="Folder of unfinished training; default: OUT/states.")
    ] = None,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", show_default="the trained one", help="Model.")
    ] = CHECKPOINT,
    searched: Annotated[
        list[str] | None, typer.Option("--searched", metavar="LETTERS ...", help="Patterns to compare with.")
    ] = None,
    budget: Annotated[float, typer.Option("--budget", help="Seconds; what is left is done by another run.")] = math.inf,
    warmup_steps: Annotated[int, typer.Option("--warmup-steps", help="Of stage 1.")] = 250,
    sparse_steps: Annotated[int, typer.Option("--sparse-steps", help="Of stage 2.")] = 60,
    warmup_rate: Annotated[float, typer.Option("--warmup-rate", help="Learning rate of stage 1.")] = 5e-3,
    sparse_rate: Annotated[float, typer.Option("--sparse-rate", help="Learning rate of stage 2.")] = 2e-4,
    sequences: Annotated[int, typer.Option("--sequences", help="Of a step.")] = 8,
    queries: Annotated[int, typer.Option("--queries", help="Of a sequence, for the KL.")] = 256,
    small: Annotated[bool, typer.Option("--small", help="Measure very little, to try the command out.")] = False,
) -> None:
    """Distill retained indexers, and measure what it brings; exit status 3 when there is more to do.

    A run that its budget stops goes on where it was when it is started again with the same --out and --states.
    """
    started = time.monotonic()
    device = default_device()
    longest = int(read_config(checkpoint)["max_position_embeddings"])
    scale = Scale(tuple(n for n in (2048, 4096, 8192) if n <= longest) or (longest,), 32, 2, 4)
    if small:
        scale = Scale((512,), 1, 1, 1)
    plan = {
        "length": scale.lengths[-1],
        "sequences": sequences,
        "queries": queries,
        "warmup_rate": warmup_rate,
        "sparse_rate": sparse_rate,
        "form": "mean",
        "slice_rows": 128,
        "save_every": 50,
    }
    result = Result(checkpoint, data, out, states or out / "states", plan, scale, device)
    every = systems(result.config.num_hidden_layers, searched or (), warmup_steps, sparse_steps)
    deadline = started + budget
    done = []
    for system in every:
        if time.monotonic() > deadline or not result.run(system, deadline):
            break
        done.append(system.name)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "runs.jsonl").open("a") as file:
        line = {"machine": machine, "torch": torch.__version__, "seconds": round(time.monotonic() - started, 1)}
        line |= {"command": command_line(context.obj), "plan": plan, "done": done, "of": len(every)}
        file.write(json.dumps(line) + "\n")
    print(f"{len(done)} of {len(every)} systems done, {time.monotonic() - started:.0f} s", flush=True)
    if len(done) < len(every):
        raise typer.Exit(3)
