"""Steps of one stage: micro-batches, losses, one update; and the loop that saves, logs and stops."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgl_indexcache.distill import parallel, state
from sgl_indexcache.distill.checkpoint import Checkpoint, shapes_of, trainable
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.data import Batch, Source
from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.distill.model import DsaModel, Losses, Mode
from sgl_indexcache.distill.parallel import Processes
from sgl_indexcache.distill.plan import Plan, Stage
from sgl_indexcache.kernels.score_causal.reference import score_causal
from sgl_indexcache.pattern import Pattern


def dtype_of(plan: Plan, device: torch.device) -> torch.dtype:
    """The dtype of matrix products."""
    if plan.dtype is not None:
        return {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}[plan.dtype]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def learns(name: str, stage: Stage) -> bool:
    """Whether a parameter (by the checkpoint's name) learns in a stage."""
    return stage == "sparse" or ".indexer." in name


def outline(config: ModelConfig, pattern: Pattern, stage: Stage, dtype: torch.dtype) -> DsaModel:
    """The model without memory (meta device): float32 what learns, the model's dtype what rests."""
    with torch.device("meta"):
        model = DsaModel(config, pattern, dtype)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns(name, stage))
            wide = torch.float64 if dtype == torch.float64 else torch.float32 if parameter.requires_grad else dtype
            parameter.data = parameter.data.to(wide)
    return model


def build(
    checkpoint: Checkpoint,
    config: ModelConfig,
    pattern: Pattern,
    stage: Stage,
    dtype: torch.dtype,
    processes: Processes,
    trained: dict[str, torch.Tensor] | None = None,
) -> DsaModel:
    """The checkpoint's model, sharded; `trained` tensors (an earlier stage's) replace the checkpoint's."""
    model = outline(config, pattern, stage, dtype)
    checkpoint.check(shapes_of(model.state_dict().items()))
    parallel.shard(model, processes)
    model.to_empty(device=processes.device)
    checkpoint.load(model, trained)
    return model


def sample_rows(batch: Batch, queries: int | None, seeds: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries int64 [B, R] for the KL and their weights float32 [B, R], which add up to at most 1 together.

    All queries that see more than themselves, or `queries` of them, drawn with replacement by the batch's shares; a
    sequence's draw depends on its seed alone.
    """
    tokens = batch.tokens
    rows, length = tokens.shape
    position = torch.arange(length, device=tokens.device).expand(rows, -1)
    telling = (position > (0 if batch.first is None else batch.first)).float()
    if queries is None or queries >= length:
        return position, telling / telling.numel()
    share = telling if batch.row_share is None else telling * batch.row_share
    drawn = []
    for each, seed in zip(share, seeds, strict=True):
        generator = torch.Generator(tokens.device).manual_seed(seed)
        # A sequence of padding alone has nothing to draw from: its weight is zero.
        drawn.append(torch.multinomial(each + (each.sum() == 0), queries, replacement=True, generator=generator))
    picks = torch.stack(drawn)
    return picks, telling.gather(1, picks) / picks.numel()


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over a step.

    kl, entropy, mass  per retained indexer; mass only on measured steps, else None
    lm                 loss of the language model, weighted; None in the warm-up
    norm               of the gradient before clipping
    """

    loss: float
    kl: list[float]
    entropy: list[float]
    mass: list[float] | None
    lm: float | None
    norm: float


class Trainer:
    """One stage of a run.

    step  steps taken. parameters: what learns, by the checkpoint's names.
    """

    def __init__(self, model: DsaModel, source: Source, plan: Plan, stage: Stage, processes: Processes) -> None:
        self.model, self.source, self.plan, self.stage, self.processes = model, source, plan, stage, processes
        self.parameters: dict[str, nn.Parameter] = trainable(model)
        self.step = 0
        cuda = processes.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()), lr=0.0, betas=(0.9, 0.95), weight_decay=plan.decay, fused=cuda
        )
        self._scorer = score_causal
        if (
            cuda
            and model.dtype == torch.bfloat16
            and (model.config.index_head_dim & (model.config.index_head_dim - 1)) == 0
        ):
            from sgl_indexcache.kernels.score_causal import cuda as on_cuda

            self._scorer = on_cuda.score_causal
        self._kernel = cuda

    def mode(self, measure: bool) -> Mode:
        """How this stage's forward runs."""
        sparse = self.stage == "sparse"
        return Mode(
            sparse=sparse,
            learn=sparse,
            form=self.plan.form,
            cross_layer=self.plan.cross_layer,
            slice_rows=self.plan.slice_rows,
            attention_rows=self.plan.attention_rows,
            measure=measure,
            kernel=self._kernel,
            scorer=self._scorer,
        )

    def numbers(self, micro: int) -> list[int]:
        """Of the sequences of one micro-batch of the next step: which data a step sees does not depend on how
        many processes share it, if they and the micro-batches make up the same number of sequences."""
        size, world = self.plan.sequences, self.processes.world
        begin = ((self.step * self.plan.accumulate + micro) * world + self.processes.rank) * size
        return list(range(begin, begin + size))

    def take_step(self, measure: bool = False) -> Figures:
        """One update.

        Raises:
            FloatingPointError: the loss or its gradient is not finite; nothing was changed.
        """
        plan, total = self.plan, torch.zeros(0)
        for micro in range(plan.accumulate):
            numbers = self.numbers(micro)
            batch = self.source.batch(numbers).to(self.processes.device)
            rows, weights = sample_rows(batch, plan.queries, [(plan.seed << 40) + number for number in numbers])
            parallel.synchronise(self.model, micro == plan.accumulate - 1)
            saved = torch.autograd.graph.save_on_cpu(pin_memory=True) if plan.offload else nullcontext()
            with saved:
                losses: Losses = self.model(
                    batch.tokens,
                    self.mode(measure),
                    first=batch.first,
                    rows=rows,
                    row_weights=weights,
                    targets=batch.targets,
                    target_weights=batch.target_weights / batch.targets.numel(),
                )
            ((losses.kl.sum() + losses.lm) / plan.accumulate).backward()  # type: ignore[no-untyped-call]
            flat = torch.cat([losses.kl, losses.entropy, losses.mass, losses.lm[None]]).detach() / plan.accumulate
            total = flat if micro == 0 else total + flat
        length = nn.utils.clip_grad_norm_(self.parameters.values(), plan.clip)
        norm = float(length.full_tensor() if hasattr(length, "full_tensor") else length)
        figures = self._figures(self.processes.mean(total), norm, measure)
        if not (math.isfinite(figures.loss) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"loss {figures.loss}, gradient {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(self.stage, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return figures

    def _figures(self, flat: torch.Tensor, norm: float, measured: bool) -> Figures:
        *three, lm = flat.tolist()
        count = len(three) // 3
        kl, entropy, mass = three[:count], three[count : 2 * count], three[2 * count :]
        return Figures(
            loss=sum(kl) + lm,
            kl=kl,
            entropy=entropy,
            mass=mass if measured else None,
            lm=lm if self.stage == "sparse" else None,
            norm=norm,
        )


def train(
    trainer: Trainer,
    folder: Path,
    expected: dict[str, Any],
    report: Callable[[Trainer, Figures, float], None],
    deadline: float = math.inf,
) -> bool:
    """Take steps until the stage is over, going on where a state in `folder` stopped; whether it is over.

    trainer   at its first step.
    folder    of the stage's states.
    expected  what a state must say to belong to this run; see state.load.
    report    given trainer, figures and seconds of the steps since the last report, on every logged step.
    deadline  time.monotonic() at which to save and stop.

    Raises:
        DistillError: a loss or gradient that is not finite; the last good step's state is saved.
    """
    plan, processes = trainer.plan, trainer.processes
    steps = plan.steps(trainer.stage)
    trainer.step = state.load(folder, trainer.parameters, trainer.optimizer, expected, processes)

    def save() -> None:
        state.save(folder, trainer.step, trainer.parameters, trainer.optimizer, expected, processes)

    begun = time.monotonic()
    while trainer.step < steps:
        # Every process must stop at the same step, so the first one's clock counts.
        if deadline < math.inf and processes.agree(time.monotonic() > deadline):
            save()
            return False
        after = trainer.step + 1
        logged = after % plan.log_every == 0 or after in (1, steps)
        try:
            figures = trainer.take_step(measure=logged)
        except FloatingPointError as error:
            save()
            raise DistillError(
                f"step {after} of the {trainer.stage} stage gave {error}: the weights after step {trainer.step} are "
                f"kept in {folder}; lower the rate or look at the data of that step"
            ) from None
        if logged:
            report(trainer, figures, time.monotonic() - begun)
            begun = time.monotonic()
        if after % plan.save_every == 0 or after == steps:
            save()
    return True
