"""A random quantity as written in YAML: a number, or one named distribution with its parameters."""

import math
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

_NORMAL = NormalDist()
_Z90 = 1.2815515655446004
"""The standard normal's 90th percentile."""
_Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Strict = ConfigDict(extra="forbid", frozen=True)


class LogNormal(BaseModel):
    """Heavy-tailed: half of the draws are below `median`, nine tenths below `p90`, none above `max`."""

    model_config = _Strict
    median: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    p90: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max: _Finite

    @model_validator(mode="after")
    def _ordered(self) -> "LogNormal":
        if not self.median <= self.p90 <= self.max:
            raise ValueError("lognormal needs median <= p90 <= max")
        return self


class Exponential(BaseModel):
    """Memoryless around `mean`, cut at `max`."""

    model_config = _Strict
    mean: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max: _Finite


class Distribution(BaseModel):
    """Exactly one of its fields is set. A bare number in YAML is a constant."""

    model_config = _Strict
    constant: _Finite | None = None
    uniform: tuple[_Finite, _Finite] | None = None
    lognormal: LogNormal | None = None
    exponential: Exponential | None = None
    choice: dict[_Finite, _Finite] | None = None
    """value to weight"""

    @model_validator(mode="before")
    @classmethod
    def _bare_number(cls, value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return {"constant": value}
        return value

    @model_validator(mode="after")
    def _one(self) -> "Distribution":
        named = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError("give a number or one of constant, uniform, lognormal, exponential, choice")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("uniform needs [low, high] with low <= high")
        if self.choice is not None and sum(self.choice.values()) <= 0:
            raise ValueError("choice needs a weight above 0")
        return self

    def draw(self, rng: np.random.Generator) -> float:
        """One value; consumes exactly one draw of `rng`, so that a change here moves nothing after it."""
        unit = rng.random()
        if self.constant is not None:
            return self.constant
        if self.uniform is not None:
            low, high = self.uniform
            return low + unit * (high - low)
        if self.lognormal is not None:
            return min(self.lognormal.max, _log_normal(self.lognormal, unit))
        if self.exponential is not None:
            return min(self.exponential.max, -self.exponential.mean * math.log1p(-unit))
        assert self.choice is not None
        values, weights = list(self.choice), np.cumsum(list(self.choice.values()))
        place = int(np.searchsorted(weights, unit * weights[-1], side="right"))
        return values[min(place, len(values) - 1)]

    def draw_count(self, rng: np.random.Generator, scale: float = 1.0, minimum: int = 0) -> int:
        """One draw times `scale`, rounded, at least `minimum`."""
        return max(minimum, round(self.draw(rng) * scale))


def _log_normal(shape: LogNormal, unit: float) -> float:
    sigma = math.log(shape.p90 / shape.median) / _Z90
    return shape.median * math.exp(sigma * _NORMAL.inv_cdf(min(max(unit, 1e-12), 1 - 1e-12)))
