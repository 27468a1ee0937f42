"""The training recipe: which phases, for how many steps, on which lengths. DSA's stages, scaled down."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Stage = Literal["dense", "warmup", "sparse"]
STAGES: tuple[Stage, ...] = ("dense", "warmup", "sparse")


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the sequences that hold facts and that hold a copy; the rest is text alone.

    answer_weight: weight of a byte of an answer in the loss; bytes of text weigh 1, and the random bytes of a
    fact, which nobody could foresee, weigh 0.
    """

    facts: float = 0.5
    copies: float = 0.1
    answer_weight: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Consecutive steps of one stage at one sequence length.

    stage          dense trains the backbone; warmup only the indexers, on the KL to the frozen dense attention;
                   sparse both, the backbone under the top-k mask and the indexers on the selected positions
    steps          optimiser steps; see `share`
    share          of the time of a run that fits the steps to its machine (Recipe.fitted)
    length, batch  tokens a sequence, sequences a step
    rate           the learning rates' factor at the first and last step, linear in between
    rows           queries a sequence on which the indexers learn
    mix            of the sequences
    """

    stage: Stage
    steps: int
    share: float = 0.0
    length: int
    batch: int
    rate: tuple[float, float]
    rows: int = 0
    mix: Mix = field(default_factory=Mix)

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.length}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All phases, in order. `ramp` steps at the start of every stage raise the rate from zero."""

    phases: tuple[Phase, ...]
    ramp: int = 50
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def with_steps(self, steps: Sequence[int]) -> "Recipe":
        """The same phases with other numbers of steps."""
        pairs = zip(self.phases, steps, strict=True)
        return replace(self, phases=tuple(replace(phase, steps=count) for phase, count in pairs))

    def fitted(self, seconds: Sequence[float], total: float) -> "Recipe":
        """Steps such that each phase takes its share of `total` seconds, given the seconds of one step."""
        shares = sum(phase.share for phase in self.phases)
        return self.with_steps(
            [
                max(1, round(total * phase.share / shares / each))
                for phase, each in zip(self.phases, seconds, strict=True)
            ]
        )

    def at(self, step: int) -> tuple[Phase, float]:
        """The phase of a step (from 0) and the factor of the learning rates."""
        first = begun = 0
        stage = self.phases[0].stage
        for phase in self.phases:
            if phase.stage != stage:
                stage, begun = phase.stage, first
            if step < first + phase.steps:
                start, end = phase.rate
                rate = start + (end - start) * (step - first) / phase.steps
                return phase, rate * min(1.0, (step - begun + 1) / self.ramp)
            first += phase.steps
        raise IndexError(f"step {step} is past the recipe's {self.steps}")


NANO = Recipe(
    phases=(
        Phase(stage="dense", steps=2400, share=0.28, length=1024, batch=64, rate=(1.0, 1.0), mix=Mix(0.5, 0.15)),
        Phase(stage="dense", steps=500, share=0.13, length=4096, batch=16, rate=(1.0, 0.6)),
        Phase(stage="dense", steps=500, share=0.16, length=8192, batch=8, rate=(0.6, 0.25)),
        Phase(stage="warmup", steps=300, share=0.06, length=2048, batch=32, rate=(1.0, 1.0), rows=128),
        Phase(stage="warmup", steps=300, share=0.09, length=8192, batch=8, rate=(1.0, 0.25), rows=256),
        Phase(stage="sparse", steps=250, share=0.1, length=2048, batch=32, rate=(0.25, 0.2), rows=64),
        Phase(stage="sparse", steps=250, share=0.18, length=8192, batch=8, rate=(0.2, 0.0), rows=128),
    )
)
"""65,536 tokens a step throughout."""

TOY = Recipe(
    phases=(
        Phase(stage="dense", steps=12, share=0.4, length=384, batch=8, rate=(1.0, 1.0)),
        Phase(stage="dense", steps=4, share=0.2, length=512, batch=4, rate=(1.0, 0.3)),
        Phase(stage="warmup", steps=8, share=0.2, length=512, batch=4, rate=(1.0, 0.5), rows=32),
        Phase(stage="sparse", steps=6, share=0.2, length=512, batch=4, rate=(0.3, 0.0), rows=32),
    ),
    ramp=4,
)
"""Shows on a CPU, in seconds, that the stages run and resume."""

RECIPES = {"nano": NANO, "toy": TOY}
