"""The published patterns, kept as data in `presets.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import yaml

from sgl_indexcache.pattern.errors import PatternError


@dataclass(frozen=True, slots=True)
class Preset:
    """One published pattern.

    name     key in presets.yaml, such as `glm5-1/4`
    model    the model it was searched on
    layers   number of layers of that model
    source   where it was published
    letters  the pattern; `Pattern.preset(name)` gives it as a Pattern
    """

    name: str
    model: str
    layers: int
    source: str
    letters: str


@cache
def presets() -> Mapping[str, Preset]:
    """All published patterns by name, in the order of the file. Read once."""
    text = files("sgl_indexcache.pattern").joinpath("presets.yaml").read_text(encoding="utf-8")
    return MappingProxyType(
        {
            name: Preset(name, entry["model"], entry["layers"], entry["source"], entry["pattern"])
            for name, entry in yaml.safe_load(text).items()
        }
    )


def find(name: str) -> Preset:
    """The preset of this name.

    Raises:
        PatternError: there is none; the text names the nearest one.
    """
    known = presets()
    if name in known:
        return known[name]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the presets are {', '.join(known)}"
    raise PatternError(f"there is no preset named {name!r}: {hint}")
