"""Single settings from the environment: SGL_INDEXCACHE_<KEY> and SGL_INDEXCACHE_<SECTION>__<KEY>."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from sgl_indexcache.settings.document import KeyPath
from sgl_indexcache.settings.errors import SettingsError
from sgl_indexcache.settings.model import Settings

PREFIX = "SGL_INDEXCACHE_"
CONFIG_VARIABLE = PREFIX + "CONFIG"

# A Kubernetes Service called `sgl-indexcache...` puts such names into every pod of its namespace.
_SERVICE_LINK = re.compile(
    PREFIX + r"(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)"
)
_SERVICE_LINK_URL = re.compile(r"(?:tcp|udp|sctp)://")


def requested(environ: Mapping[str, str]) -> bool:
    """True when the environment asks for the plugin: a settings file or any single key is set.

    A misspelt name counts too, so that `load` refuses it instead of the plugin staying silently off. An
    empty value counts as not set.
    """
    return bool(environ.get(CONFIG_VARIABLE)) or bool(_ours(environ))


def read_environment(environ: Mapping[str, str]) -> dict[KeyPath, Any]:
    """The single settings in the environment, by key path, converted to the field's type.

    Raises:
        SettingsError: a name that begins with the prefix and is no setting, or a value of the wrong type.
    """
    fields = variables()
    values: dict[KeyPath, Any] = {}
    for name, text in _ours(environ).items():
        if name not in fields:
            near = get_close_matches(name, [*fields, CONFIG_VARIABLE], n=1)
            hint = f"did you mean {near[0]}?" if near else "unset it"
            raise SettingsError(f"the environment variable {name} is no setting: {hint}")
        path, annotation = fields[name]
        try:
            values[path] = TypeAdapter(annotation).validate_strings(text.strip())
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise SettingsError(f"the environment variable {name}={text[:60]!r}: {reason}") from None
    return values


@cache
def variables() -> dict[str, tuple[KeyPath, Any]]:
    """Every variable that `read_environment` knows: name to key path and type."""
    return {PREFIX + "__".join(path).upper(): (path, kind) for path, kind in _leaves(Settings, ())}


def _leaves(model: type[BaseModel], parent: KeyPath) -> list[tuple[KeyPath, Any]]:
    leaves: list[tuple[KeyPath, Any]] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            leaves += _leaves(kind, (*parent, name))
        else:
            leaves.append(((*parent, name), kind))
    return leaves


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE and value and not _is_service_link(name, value)
    }


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name)) or bool(name.endswith("_PORT") and _SERVICE_LINK_URL.match(value))
