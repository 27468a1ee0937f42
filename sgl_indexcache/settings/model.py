"""The settings themselves: what can be set, the defaults, the bounds and their descriptions."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sgl_indexcache.pattern import PatternError, check_spec


class _Section(BaseModel):
    # Strict: `scratch_mib: true` would otherwise be read as 1.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class UniformPattern(_Section):
    """A uniform pattern in SGLang's numbers (`index_topk_freq`, `index_skip_topk_offset`)."""

    freq: int = Field(gt=0, description="One layer in freq is Full; 1 makes every layer Full.")
    offset: int | None = Field(
        default=None,
        gt=0,
        description="Number of leading Full layers; null is SGLang's rule without an offset, the same as 2.",
    )


class Scoring(_Section):
    """How a Full layer scores the keys."""

    mode: Literal["exact"] = Field(default="exact", description="exact: every key of the context is scored.")


class Kernels(_Section):
    """Bounds on what the kernels may allocate."""

    scratch_mib: int = Field(
        default=256,
        ge=1,
        le=1_000_000,
        description="Upper bound in MiB for any score matrix or gathered scratch, whatever the batch.",
    )


def _check_pattern(value: Any) -> Any:
    if isinstance(value, str):
        try:
            check_spec(value)
        except PatternError as error:
            raise ValueError(str(error)) from None
    elif value is not None and not isinstance(value, (Mapping, UniformPattern)):
        raise ValueError("must be letters F and S, a preset's name, 1/N, or a mapping with freq and offset")
    return value


class Settings(_Section):
    """Everything that can be set. Immutable; unknown keys are refused.

    Raises:
        pydantic.ValidationError: from the constructor; `settings.load` turns it into a SettingsError.
    """

    enabled: bool = Field(
        default=True, description="false leaves SGLang exactly as it is, although the plugin is installed."
    )
    pattern: Annotated[str | UniformPattern | None, BeforeValidator(_check_pattern)] = Field(
        default=None,
        description=(
            "Which layers are Full (F) and Shared (S): letters, a preset's name, 1/N for one Full layer in N,"
            " or freq and offset. null keeps what the model's config.json says."
        ),
    )
    scoring: Scoring = Field(default_factory=Scoring, description="How a Full layer scores the keys.")
    kernels: Kernels = Field(default_factory=Kernels, description="Bounds on what the kernels may allocate.")


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the settings file, with a description on every field."""
    return Settings.model_json_schema()


def dump_yaml(settings: Settings) -> str:
    """The settings as a YAML file's text, every field spelled out; `load` reads the same settings from it."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, width=10_000)
