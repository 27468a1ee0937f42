"""The systems that are compared end to end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.pattern import Pattern

NAMES = ("standard", "reuse", "indexcache", "limit")
LABELS: Mapping[str, str] = {
    "standard": "standard DSA",
    "reuse": "SGLang's own reuse",
    "indexcache": "IndexCache",
    "limit": "one Full layer",
}


@dataclass(frozen=True, slots=True)
class System:
    """One of NAMES on one device.

    standard    every layer runs its indexer
    reuse       SGLang alone, with its own carry of selections, at the pattern that is measured
    indexcache  this plugin at the same pattern
    limit       this plugin with one Full layer: what would be left if the other indexers cost nothing

    plain systems run SGLang's `dsa` backend with the plugin switched off. There is none without CUDA, so that
    `standard` is the CPU backend with every layer Full there, and `reuse` does not exist.
    """

    name: str
    pattern: Pattern
    plain: bool

    @property
    def label(self) -> str:
        """For tables and plots."""
        return LABELS[self.name]

    def environment(self, inherited: Mapping[str, str], device: str) -> dict[str, str]:
        """The environment of the system's process: kernels in the caller's settings apply to ours only."""
        own = {name: value for name, value in inherited.items() if not name.startswith("SGL_INDEXCACHE_")}
        own["SGLANG_USE_CPU_ENGINE"] = "1" if device == "cpu" else "0"
        if self.plain:
            return {**own, "SGL_INDEXCACHE_ENABLED": "false"}
        settings = {name: value for name, value in inherited.items() if name.startswith("SGL_INDEXCACHE_")}
        return {**own, **settings, "SGL_INDEXCACHE_PATTERN": str(self.pattern)}

    def engine(self) -> dict[str, Any]:
        """What this system adds to the arguments of sglang.Engine."""
        if self.plain:
            override = {"index_topk_pattern": str(self.pattern)}
            return {"attention_backend": "dsa", "json_model_override_args": json.dumps(override)}
        return {"attention_backend": "indexcache"}


def systems(names: list[str], pattern: Pattern, device: str) -> list[System]:
    """The systems called `names` for a model whose measured pattern is `pattern`.

    Raises:
        BenchError: an unknown name, or one that does not exist on the device.
    """
    layers = len(pattern)
    patterns = {
        "standard": Pattern("F" * layers),
        "reuse": pattern,
        "indexcache": pattern,
        "limit": Pattern("F" + "S" * (layers - 1)),
    }
    plain = {"standard", "reuse"} if device == "cuda" else set()
    if unknown := [name for name in names if name not in patterns]:
        raise BenchError(f"the system {unknown[0]!r} is unknown: choose among {', '.join(NAMES)}")
    if device == "cpu" and "reuse" in names:
        raise BenchError("the system reuse needs CUDA, for SGLang has no DSA on the CPU: leave it out of --systems")
    return [System(name, patterns[name], name in plain) for name in names]
