"""What a distillation is asked to do: stages, rates, losses, slices. Plain values, checked when they are made."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sgl_indexcache.distill.errors import DistillError

Stage = Literal["warmup", "sparse"]
STAGES: tuple[Stage, ...] = ("warmup", "sparse")
Form = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run. The defaults for steps and rates are the paper's and DeepSeek-V3.2's.

    Attributes:
        warmup_steps: steps of stage 1: dense attention, only the retained indexers learn, multi-layer KL.
        sparse_steps: steps of stage 2: attention on the selection, KL on it too, the rest learns from the LM loss.
        warmup_rate, sparse_rate: highest learning rates (AdamW) of the stages.
        ramp: steps over which a stage's rate rises; afterwards it falls linearly to a tenth.
        length: tokens of a sequence.
        sequences: sequences of a micro-batch on each device. accumulate: micro-batches of a step.
        queries: sampled queries of a sequence on which the KL is taken, an unbiased estimate; None takes all.
        form: sum or mean, the two forms of Proposition 1: equal gradients. sum holds one layer's attention at a time,
            mean those of a whole group, and scores each query once instead of once a layer.
        cross_layer: False trains each retained indexer on its own layer alone, for comparison.
        slice_rows: queries of a slice of the KL. attention_rows: queries of a slice of masked attention.
        clip: largest norm of a step's gradient. decay: weight decay.
        seed: of the order of the data and of the sampled queries.
        dtype: of matrix products; None: bfloat16 on CUDA, float32 on the CPU.
        offload: keep what backward needs in host memory (stage 2 with long contexts).
        save_every: steps between saved states. log_every: steps between lines of the log.

    Raises:
        DistillError: from the constructor, when a number makes no sense.
    """

    warmup_steps: int = 1000
    sparse_steps: int = 4000
    warmup_rate: float = 1e-3
    sparse_rate: float = 1e-5
    ramp: int = 20
    length: int = 8192
    sequences: int = 1
    accumulate: int = 1
    queries: int | None = None
    form: Form = "sum"
    cross_layer: bool = True
    slice_rows: int = 64
    attention_rows: int = 1024
    clip: float = 1.0
    decay: float = 0.0
    seed: int = 0
    dtype: Literal["bfloat16", "float32", "float64"] | None = None
    offload: bool = False
    save_every: int = 100
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "sparse_steps", "ramp"):
            if getattr(self, name) < 0:
                raise DistillError(f"{_flag(name)} is {getattr(self, name)}: it must not be negative")
        if self.warmup_steps + self.sparse_steps == 0:
            raise DistillError("no step is asked for: give --warmup-steps, --sparse-steps or both")
        least = {"length": 2, "sequences": 1, "accumulate": 1, "slice_rows": 1, "attention_rows": 1}
        least |= {"save_every": 1, "log_every": 1, "queries": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise DistillError(f"{_flag(name)} is {value}: it must be at least {low}")
        for name in ("warmup_rate", "sparse_rate", "clip"):
            if not getattr(self, name) > 0:
                raise DistillError(f"{_flag(name)} is {getattr(self, name)}: it must be above 0")
        if self.form not in ("sum", "mean"):
            raise DistillError(f"--form is {self.form!r}: use sum or mean")
        if self.dtype not in (None, "bfloat16", "float32", "float64"):
            raise DistillError(f"--dtype is {self.dtype!r}: use bfloat16 or float32")

    def steps(self, stage: Stage) -> int:
        """Steps of a stage."""
        return self.warmup_steps if stage == "warmup" else self.sparse_steps

    def rate(self, stage: Stage, step: int) -> float:
        """Learning rate of the stage's step, from 0."""
        highest = self.warmup_rate if stage == "warmup" else self.sparse_rate
        return highest * min((step + 1) / (self.ramp + 1), 1.0) * (1.0 - 0.9 * step / max(self.steps(stage), 1))

    def described(self) -> dict[str, Any]:
        """For logs and to tell whether a state belongs to this plan; without what may change at a resume."""
        found = dataclasses.asdict(self)
        for name in ("save_every", "log_every", "offload"):
            del found[name]
        return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
