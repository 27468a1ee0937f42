"""A command from its inputs to the written checkpoint: everything is checked before anything is made."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.distill import data, parallel
from sgl_indexcache.distill.checkpoint import Checkpoint, gather, shapes_of, write
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.distill.memory import Item, plan_memory
from sgl_indexcache.distill.parallel import Processes
from sgl_indexcache.distill.plan import STAGES, Plan, Stage
from sgl_indexcache.distill.progress import Progress
from sgl_indexcache.distill.train import Trainer, build, dtype_of, outline, train
from sgl_indexcache.errors import UserError
from sgl_indexcache.live.model import ModelFacts, read_model
from sgl_indexcache.pattern import Pattern, read_config, resolve


@dataclass(frozen=True, slots=True)
class Job:
    """A distillation that was checked: see `prepare`.

    folder  of the run (packed data, states, log.jsonl), beside the checkpoint that will be `out`
    """

    checkpoint: Checkpoint
    config: ModelConfig
    facts: ModelFacts
    pattern: Pattern
    plan: Plan
    data: Path
    out: Path

    @property
    def folder(self) -> Path:
        return self.out.with_name(self.out.name + ".run")


def prepare(model: Path, spec: str | None, data_path: Path, out: Path, plan: Plan) -> Job:
    """Check all inputs; nothing is written.

    model      folder of the checkpoint.
    spec       pattern as for serve; None takes the model's own.
    data_path  JSON lines, or a folder of such files.
    out        folder of the result, which must not exist or be empty.
    plan       what is asked for.

    Raises:
        UserError: what does not fit, in one sentence.
    """
    raw = read_config(model)
    pattern = resolve(spec, raw)
    config = ModelConfig.of(raw)
    if plan.length > config.max_position_embeddings:
        raise DistillError(
            f"--length is {plan.length} but the model takes {config.max_position_embeddings} tokens: "
            "give at most so many"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DistillError(f"{out} exists: name a folder for the result that does not, or remove it")
    checkpoint = Checkpoint(model)
    checkpoint.check(shapes_of(outline(config, pattern, "warmup", torch.float32).state_dict().items()))
    facts = read_model(model)
    data.check_readable(data_path, facts)
    return Job(checkpoint, config, facts, pattern, plan, data_path, out)


def memory(job: Job, stage: Stage, world: int, device: torch.device) -> list[Item]:
    """The memory plan of a stage on each of `world` devices."""
    model = outline(job.config, job.pattern, stage, dtype_of(job.plan, device))
    return plan_memory(model, job.plan, stage, world, kernel=device.type == "cuda")


def distill(job: Job, processes: Processes, say: Callable[[str], None]) -> Path:
    """Train and write the checkpoint; all processes call it. Returns the folder.

    A run that was stopped goes on from its last state when it is asked for again with the same inputs.

    Raises:
        UserError: bad data further on in the file, or a loss that is not finite (the last good state is kept).
    """
    source = _packed(job, processes)
    trained: dict[str, torch.Tensor] = {}
    progress = Progress(job.folder / "log.jsonl", say)
    trainer = None
    for stage in STAGES:
        if not job.plan.steps(stage):
            continue
        dtype = dtype_of(job.plan, processes.device)
        model = build(job.checkpoint, job.config, job.pattern, stage, dtype, processes, trained)
        trainer = Trainer(model, source, job.plan, stage, processes)
        train(trainer, job.folder / stage, _identity(job, source, stage), progress)
        if stage != STAGES[-1] and job.plan.steps(STAGES[-1]):
            trained = {name: gather(parameter) for name, parameter in trainer.parameters.items()}
    assert trainer is not None
    write(job.checkpoint, trainer.parameters, job.pattern, job.out, writes=processes.first)
    processes.wait()
    return job.out


def _identity(job: Job, source: data.Source, stage: Stage) -> dict[str, Any]:
    """What a state must agree with to be gone on from."""
    plan = job.plan.described()
    if stage == "warmup":
        # The second stage may be asked for, or lengthened, later.
        plan = {name: value for name, value in plan.items() if not name.startswith("sparse_")}
    return {
        "plan": plan,
        "pattern": job.pattern.letters,
        "model": job.facts.fingerprint,
        "data": source.described(),
    }


def _packed(job: Job, processes: Processes) -> data.PackedData:
    """The data, packed by the first process; an error of its is everybody's."""
    said = None
    if processes.first:
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            data.pack(job.data, job.facts, job.plan.length, job.folder / "data")
        except UserError as error:
            said = str(error)
            _remove_if_unused(job.folder)
    said = processes.agree(said)
    if said:
        raise DistillError(said)
    facts = json.loads((job.folder / "data" / "packed.json").read_text())
    return data.PackedData(job.folder / "data", facts["length"], facts["sequences"], facts["key"], job.plan.seed)


def _remove_if_unused(folder: Path) -> None:
    """Leave nothing behind of a run that had not begun."""
    for path in (folder / "data", folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def start(device: str | None) -> Processes:
    """See parallel.start; a device that is not there is refused in one sentence."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DistillError("--device is cuda but there is no CUDA device: leave it out, or give cpu")
    return parallel.start(device)
