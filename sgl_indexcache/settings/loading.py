"""From a file and the environment to Settings, with errors that name the place and the remedy."""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sgl_indexcache.settings.document import Document, KeyPath, read_document
from sgl_indexcache.settings.environment import CONFIG_VARIABLE, PREFIX, read_environment
from sgl_indexcache.settings.errors import SettingsError
from sgl_indexcache.settings.model import Settings, UniformPattern

# What pydantic puts into an error's location for the branches of `str | UniformPattern`.
_UNION_BRANCHES = frozenset({"str", "UniformPattern"})


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    The file is `path`, else the one that SGL_INDEXCACHE_CONFIG names, else none. Single keys
    (SGL_INDEXCACHE_ENABLED, SGL_INDEXCACHE_KERNELS__SCRATCH_MIB, ...) go over the file. An empty file, an
    empty section and an empty variable mean the defaults.

    Raises:
        SettingsError: the file cannot be read or is not plain YAML, or a key or a value is refused.
    """
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    document = Document(Path(), {}) if path is None else read_document(path)
    overrides = read_environment(environ)
    data = dict(document.data)
    for name, section in _sections().items():
        if name in data and data[name] is None:
            data[name] = {}
        _overlay(data, name, {key[1]: value for key, value in overrides.items() if key[:-1] == (name,)})
        assert not any(_sections_of(section)), "the environment reaches two levels deep"
    data.update({key[0]: value for key, value in overrides.items() if len(key) == 1})
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        sentences = [_sentence(item, document, overrides) for item in _relevant(error.errors())]
        raise SettingsError("; ".join(sentences)) from None


def _overlay(data: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    # A section that is no mapping stays as it is, to be refused by the validation.
    if values and isinstance(data.get(name, {}), dict):
        data[name] = {**data.get(name, {}), **values}


def _relevant(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """One error a key; of a union's errors those that lie deepest, which are about what was written."""
    by_path: dict[KeyPath, ErrorDetails] = {}
    for error in errors:
        by_path.setdefault(_key_path(error), error)
    return [
        error
        for path, error in by_path.items()
        if not any(len(other) > len(path) and other[: len(path)] == path for other in by_path)
    ]


def _key_path(error: ErrorDetails) -> KeyPath:
    return tuple(str(part) for part in error["loc"] if part not in _UNION_BRANCHES)


def _sentence(error: ErrorDetails, document: Document, overrides: Mapping[KeyPath, Any]) -> str:
    path = _key_path(error)
    dotted = _dotted(path)
    if error["type"] == "extra_forbidden":
        message = f"the key {dotted} is unknown, {_nearest(path)}"
    elif error["type"] == "missing":
        message = f"the key {dotted} is missing, add it"
    elif error["type"] == "model_type":
        message = f"{dotted} is a section: write its keys indented below it"
    elif error["type"] == "value_error":
        message = f"{dotted}: {error['msg'].removeprefix('Value error, ')}"
    else:
        message = f"{dotted} {error['msg'].removeprefix('Input ')}{_written(error['input'])}"
    return f"{_place(path, document, overrides)}{message}"


def _dotted(path: KeyPath) -> str:
    # A quoted YAML key may hold anything, line ends and terminal escapes included.
    return ".".join(part if part.isprintable() else ascii(part) for part in path)[:200]


def _written(value: object) -> str:
    return f", but it is {value!r}"[:100] if isinstance(value, str | int | float | None) else ""


def _place(path: KeyPath, document: Document, overrides: Mapping[KeyPath, Any]) -> str:
    if path in overrides:
        return f"the environment variable {PREFIX}{'__'.join(path).upper()}: "
    for depth in range(len(path), 0, -1):
        if path[:depth] in document.lines:
            return f"{document.path} line {document.lines[path[:depth]]}: "
    return ""


def _nearest(path: KeyPath) -> str:
    known = {**_known(Settings, ()), **_known(UniformPattern, ("pattern",))}
    siblings = [key[-1] for key in known if key[:-1] == path[:-1]]
    if near := get_close_matches(path[-1], siblings, n=1):
        return f"did you mean {'.'.join((*path[:-1], near[0]))}?"
    # Right name, wrong section: `scratch_mib` at the top level.
    if elsewhere := [key for key in known if key[-1] == path[-1]]:
        return f"did you mean {'.'.join(elsewhere[0])}?"
    where = _dotted(path[:-1]) or "the top level"
    return f"the keys of {where} are {', '.join(siblings)}"


def _known(model: type[BaseModel], parent: KeyPath) -> dict[KeyPath, None]:
    known: dict[KeyPath, None] = {}
    for name in model.model_fields:
        known[(*parent, name)] = None
    for name, section in _sections_of(model).items():
        known |= _known(section, (*parent, name))
    return known


def _sections() -> dict[str, type[BaseModel]]:
    return _sections_of(Settings)


def _sections_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
