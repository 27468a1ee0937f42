"""From what a user writes to a Pattern: one reading for the settings, for serving and for the CLI."""

import re
from typing import NamedTuple, Protocol

from sgl_indexcache.pattern.config import layer_count
from sgl_indexcache.pattern.errors import PatternError
from sgl_indexcache.pattern.pattern import Pattern
from sgl_indexcache.pattern.presets import Preset, find

_FRACTION = re.compile(r"1/([1-9][0-9]{0,5})")


class UniformSpec(Protocol):
    """A uniform pattern stated in numbers; the settings' `UniformPattern` is one."""

    @property
    def freq(self) -> int: ...

    @property
    def offset(self) -> int | None: ...


class Resolution(NamedTuple):
    """A pattern, and in words where it came from (`model config`, `letters`, `preset x`, `uniform ...`)."""

    pattern: Pattern
    source: str


def resolve(spec: str | UniformSpec | None, config: object) -> Pattern:
    """The pattern that `spec` means for a model.

    spec    None for what the model's config says; letters F and S; a preset's name; `1/N` for SGLang's
            rule with `index_topk_freq` N; or an object with `freq` and `offset`
    config  a Hugging Face config object, or a mapping with the content of a config.json. None when no
            model is at hand: then only letters and presets have a meaning, and no length is checked.

    Returns a pattern with exactly as many letters as the model has layers.

    Raises:
        PatternError: the spec is none of these, needs a model that is not given, or does not fit it.
    """
    return trace(spec, config).pattern


def trace(spec: str | UniformSpec | None, config: object) -> Resolution:
    """As `resolve`, and tells where the pattern came from."""
    if spec is None:
        _require_model(config, "the model's own pattern")
        return Resolution(Pattern.of_config(config), "model config")
    if not isinstance(spec, str):
        return _uniform(spec.freq, spec.offset, config)
    spec = spec.strip()
    if match := _FRACTION.fullmatch(spec):
        return _uniform(int(match[1]), None, config)
    layers = None if config is None else layer_count(config)
    if not _looks_like_a_name(spec):
        return Resolution(Pattern.parse(spec, layers), "letters")
    preset = _find(spec)
    if layers is not None and preset.layers != layers:
        raise PatternError(
            f"the preset {spec} is for {preset.layers} layers ({preset.model}) but the model has {layers}: "
            "choose another preset, or a uniform pattern such as 1/4"
        )
    return Resolution(Pattern(preset.letters), f"preset {spec}")


def check_spec(spec: str) -> None:
    """Refuse a spec that no model could make sense of; the settings call it before a model is known.

    Raises:
        PatternError: neither letters, nor a preset, nor `1/N`.
    """
    spec = spec.strip()
    if not _FRACTION.fullmatch(spec):
        trace(spec, None)


def _uniform(freq: int, offset: int | None, config: object) -> Resolution:
    source = f"uniform freq={freq}" + ("" if offset is None else f" offset={offset}")
    _require_model(config, f"{source} (the number of layers)")
    return Resolution(Pattern.uniform(layer_count(config), freq, offset), source)


def _require_model(config: object, what: str) -> None:
    if config is None:
        raise PatternError(f"{what} depends on the model: name a model folder too")


def _looks_like_a_name(spec: str) -> bool:
    return any(mark.isdigit() or mark in "/-_." for mark in spec)


def _find(name: str) -> Preset:
    try:
        return find(name)
    except PatternError as error:
        raise PatternError(f"{error} (or write letters F and S, or 1/N for one Full layer in N)") from None
