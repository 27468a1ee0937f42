"""What a distillation does: stages, rates, losses, slices. Plain values, checked when they are made."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.flags import flag

Stage = Literal["warmup", "sparse"]
STAGES: tuple[Stage, ...] = ("warmup", "sparse")
Form = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run; its flags are those of `sgl-indexcache distill`. Defaults of steps and rates: the paper's and
    DeepSeek-V3.2's.

    warmup_steps    stage 1: dense attention, only the retained indexers learn, multi-layer KL
    sparse_steps    stage 2: attention on the selection, KL on it too, the rest learns from the LM loss
    warmup_rate, sparse_rate   of AdamW
    ramp            steps over which a stage's rate rises; afterwards it falls linearly to a tenth
    queries         on which the KL is taken, an unbiased estimate
    form            the two forms of Proposition 1. sum holds one layer's attention at a time; mean those of a whole
                    group, and scores each query once instead of once a layer
    cross_layer     False trains each retained indexer on its own layer alone, for comparison
    slice_rows      of the KL; attention_rows: queries of a slice of masked attention
    clip            largest norm of a step's gradient
    decay           of weights
    dtype           of matrix products
    offload         what backward needs (stage 2 with long contexts)

    Raises:
        DistillError: from the constructor, when a number makes no sense.
    """

    warmup_steps: int = flag("--warmup-steps", "Stage 1: indexers only, dense.", default=1000)
    sparse_steps: int = flag("--sparse-steps", "Stage 2: everything, sparse.", default=4000)
    warmup_rate: float = flag("--warmup-rate", "Highest learning rate of stage 1.", default=1e-3)
    sparse_rate: float = flag("--sparse-rate", "Highest learning rate of stage 2.", default=1e-5)
    ramp: int = 20
    length: int = flag("--length", "Tokens of a sequence.", default=8192)
    sequences: int = flag("--sequences", "Sequences of a micro-batch on a device.", default=1)
    accumulate: int = flag("--accumulate", "Micro-batches of a step.", default=1)
    queries: int | None = flag("--queries", "Sampled queries of a sequence for the KL; default: all.", default=None)
    form: Form = flag(
        "--form", "sum of KLs (less memory) or KL to the mean (faster); the gradient is the same.", default="sum"
    )
    cross_layer: bool = flag(
        "--cross-layer/--own-layer", "Learn for all served layers, or for the own layer alone.", default=True
    )
    slice_rows: int = flag("--slice-rows", "Queries of the loss at a time: less memory.", default=64)
    attention_rows: int = 1024
    clip: float = 1.0
    decay: float = 0.0
    seed: int = flag("--seed", "Of the order of the data and the sampled queries.", default=0)
    dtype: Literal["bfloat16", "float32", "float64"] | None = flag(
        "--dtype", "bfloat16 or float32; default: bfloat16 on CUDA, else float32.", default=None, kind=str | None
    )
    device: str | None = flag("--device", "cuda or cpu; default: CUDA if there is any.", default=None)
    offload: bool = flag("--offload", "Keep stage 2's activations in host memory.", default=False)
    save_every: int = flag("--save-every", "Steps between saved states.", default=100)
    log_every: int = flag("--log-every", "Steps between lines of the log.", default=10)

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "sparse_steps", "ramp"):
            if getattr(self, name) < 0:
                raise DistillError(f"{_flag(name)} is {getattr(self, name)}: it must not be negative")
        if self.warmup_steps + self.sparse_steps == 0:
            raise DistillError("no step is asked for: give --warmup-steps, --sparse-steps or both")
        minimum = {"length": 2, "sequences": 1, "accumulate": 1, "slice_rows": 1, "attention_rows": 1}
        minimum |= {"save_every": 1, "log_every": 1, "queries": 1}
        for name, low in minimum.items():
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
        values = dataclasses.asdict(self)
        for name in ("device", "save_every", "log_every", "offload"):
            del values[name]
        return values


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
