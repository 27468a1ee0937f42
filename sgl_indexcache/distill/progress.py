"""What a run says while it trains, and log.jsonl: one JSON object a logged step."""

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.distill.train import Figures, Trainer


def peak_bytes(device: torch.device) -> int:
    """The most memory that was in use so far: on the device, or of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Progress:
    """Reports logged steps; see train.train.

    log  file that lines are added to. Lines of steps that a killed run took beyond its last state are dropped.
    say  takes a line for people.
    """

    def __init__(self, log: Path, say: Callable[[str], None]) -> None:
        self.log, self.say = log, say
        self._last: tuple[str, int] | None = None

    def __call__(self, trainer: Trainer, figures: Figures, seconds: float) -> None:
        plan, stage = trainer.plan, trainer.stage
        if not trainer.processes.first:
            return
        if self._last is None or self._last[0] != stage:
            self._trim(stage, trainer.step)
        # The first report after a start covers the steps since a multiple of log_every, or one step.
        before = self._last[1] if self._last and self._last[0] == stage else trainer.step - 1
        count = max(trainer.step - before, 1)
        self._last = stage, trainer.step
        speed = count * plan.length * plan.sequences * plan.accumulate * trainer.processes.world / max(seconds, 1e-9)
        left = (plan.steps(stage) - trainer.step) * seconds / count
        line: dict[str, Any] = {
            "stage": stage,
            "step": trainer.step,
            "loss": figures.loss,
            "kl": figures.kl,
            "entropy": figures.entropy,
            "mass": figures.mass,
            "lm": figures.lm,
            "norm": figures.norm,
            "rate": plan.rate(stage, trainer.step - 1),
            "tokens_per_s": round(speed),
            "peak_gb": round(peak_bytes(trainer.processes.device) / 1e9, 2),
            "left_s": round(left),
        }
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        mass = "" if figures.mass is None else f", mass {sum(figures.mass) / len(figures.mass):.3f}"
        lm = "" if figures.lm is None else f", lm {figures.lm:.4f}"
        self.say(
            f"{stage} {trainer.step}/{plan.steps(stage)}: kl {sum(figures.kl) / len(figures.kl):.4f}{mass}{lm}, "
            f"{speed:,.0f} tokens/s, {line['peak_gb']} GB, {left:.0f} s left"
        )

    def _trim(self, stage: str, step: int) -> None:
        if not self.log.exists():
            return
        lines = []
        for text in self.log.read_text().splitlines():
            line = json.loads(text)
            if line["stage"] != stage or line["step"] < step:
                lines.append(text)
        scratch = self.log.with_name(self.log.name + ".new")
        scratch.write_text("".join(text + "\n" for text in lines))
        os.replace(scratch, self.log)
