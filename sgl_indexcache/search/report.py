"""What a search leaves behind: search.json, the settings file for `serve`, and the plot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.sequences import Sequences
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.results import write_json, write_text
from sgl_indexcache.search.greedy import Step
from sgl_indexcache.search.plot import loss_against_budget
from sgl_indexcache.settings import Settings, dump_yaml

SCHEMA = "sgl_indexcache.search/1"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every step of a search, from all Full to the pattern that it ends with."""

    steps: list[Step]

    @property
    def pattern(self) -> Pattern:
        """The pattern of the last step."""
        return self.steps[-1].pattern

    @property
    def loss(self) -> float:
        """Loss of `pattern`, nats."""
        return self.steps[-1].loss

    @property
    def full_loss(self) -> float:
        """Loss with all layers Full, nats."""
        return self.steps[0].loss

    @property
    def increase(self) -> float:
        """Relative increase of the loss over all Full."""
        return self.loss / self.full_loss - 1


def write(
    out: Path,
    model: ModelFacts,
    calibration: Sequences,
    outcome: Outcome,
    *,
    settings: dict[str, Any],
    extra: dict[str, Any],
    evaluations: dict[str, Any],
    draw: bool,
) -> None:
    """Write search.json, indexcache.yaml and, with `draw`, loss.png into `out`; `extra`: further figures."""
    report = write_json(
        out / "search.json",
        SCHEMA,
        {
            "settings": settings,
            "model": model.described(),
            "calibration": calibration.described(),
            "pattern": str(outcome.pattern),
            "loss": outcome.loss,
            "full_loss": outcome.full_loss,
            "increase": outcome.increase,
            "budgets": {str(step.full): {"pattern": str(step.pattern), "loss": step.loss} for step in outcome.steps},
            "steps": [step.described() for step in outcome.steps],
            **extra,
            "evaluations": evaluations,
        },
    )
    if draw:
        loss_against_budget(out / "loss.png", report)
    about = (
        f"{len(outcome.pattern.full_layers)} of {model.layers} layers Full, scorer {settings['scorer']}; "
        f"loss {outcome.increase:+.3%} on {calibration.name}"
    )
    write_text(out / "indexcache.yaml", f"# {about}\n" + dump_yaml(Settings(pattern=str(outcome.pattern))))
