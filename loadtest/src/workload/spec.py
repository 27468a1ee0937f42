"""A workload's description: a preset's name or a YAML file, with single keys overridden."""

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgl_indexcache.loadtest.errors import WorkloadError
from sgl_indexcache.loadtest.workload.distribution import Distribution

LARGEST_FILE = 1 << 20
_Share = Annotated[float, Field(ge=0, le=1)]


def _constant(value: float) -> Any:
    return Field(default_factory=lambda: Distribution(constant=value))


class SubAgents(BaseModel):
    """Sub-agents: after a turn, some sessions branch; each branch begins with all its parent has sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    chance: _Share = 0.0
    """of branching, per turn"""
    count: Distribution = _constant(1)
    turns: Distribution = _constant(1)
    task_tokens: Distribution = _constant(200)


class Workload(BaseModel):
    """Agentic sessions. Lengths are tokens, times seconds; see docs/loadtest.md for every key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""
    shared_tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """system prompt and tool catalogue, the same in every session"""
    context_tokens: Distribution = _constant(0)
    """what a session opens with: its files, documents, question"""
    turns: Distribution = _constant(1)
    new_tokens: Distribution = _constant(1300)
    """tool output or user message of every turn but the first"""
    output_tokens: Distribution = _constant(128)
    think_s: Distribution = _constant(0)
    """from the end of an answer to the next turn"""
    repeat_chance: _Share = 0.0
    """of sending a turn's prompt once more after its answer"""
    n: Distribution = _constant(1)
    """samples per request"""
    subagents: SubAgents = Field(default_factory=SubAgents)
    replies: Literal["planned", "actual"] = "planned"
    """what stands for the model's answer in the next prompt: planned keeps the bytes the same in every run"""
    scale: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """multiplies every length"""

    def digest(self) -> str:
        """Sixteen hex digits that change whenever what is sent may change; `about` does not count."""
        text = self.model_dump_json(exclude={"about"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def presets() -> dict[str, Workload]:
    """The shipped workloads by name."""
    text = files("sgl_indexcache.loadtest.workload").joinpath("presets.yaml").read_text("utf-8")
    return {name: Workload.model_validate(body) for name, body in yaml.safe_load(text).items()}


def load_workload(name: str, overrides: list[str] | None = None) -> Workload:
    """The preset `name`, or the YAML file of that path, with `key=value` overrides (dotted keys, YAML values).

    Raises:
        WorkloadError: no such preset or file, or a key or a value is refused.
    """
    if name in presets():
        data: Any = presets()[name].model_dump(exclude_none=True)
    else:
        data = _read(Path(name))
    for override in overrides or []:
        _set(data, override)
    try:
        return Workload.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise WorkloadError(f"workload {name}: {place}: {reason}") from None


def _read(path: Path) -> dict[str, Any]:
    known = ", ".join(presets())
    if not path.is_file():
        raise WorkloadError(f"{path} is no workload file and no preset: the presets are {known}")
    if path.stat().st_size > LARGEST_FILE:
        raise WorkloadError(f"{path} is larger than 1 MiB: a workload file is a few lines of YAML")
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WorkloadError(f"{path} is not YAML: {reason}") from None
    if not isinstance(data, dict):
        raise WorkloadError(f"{path} must hold keys and values, like turns: 4")
    return data


def _set(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise WorkloadError(f"--set {override!r} has no value: write it like turns=4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise WorkloadError(f"--set {override!r}: the value is not YAML") from None
    *folders, last = key.strip().split(".")
    for folder in folders:
        data = data.setdefault(folder, {})
        if not isinstance(data, dict):
            raise WorkloadError(f"--set {override!r}: {folder} holds no keys")
    data[last] = value
