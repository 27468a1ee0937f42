"""Options of a command as fields of a dataclass: flag, help, panel and default stand once, beside the field.

    retries: int = flag("--retries", "After a failure.", default=0, minimum=0)

`cli/shared.py` makes typer's signatures of such a class, `from_flags` an instance of what typer has read. A caller's
own Python makes the instance itself. Plain metadata: whoever declares options needs no typer.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Options = TypeVar("Options")

REQUIRED: Any = ...
"""As a default: the flag must be given."""
_KEY = "flags"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a field.

    name     like --max-in-flight, or --cross-layer/--own-layer for both ways of a bool
    help     what --help says
    panel    its box in --help; None is the common one
    default  as it is written on a command line
    kind     type of what is written; None: the default's, or where that is None the field's
    minimum  of a number
    """

    name: str
    help: str
    panel: str | None = None
    default: Any = REQUIRED
    kind: Any = None
    minimum: int | None = None

    @property
    def parameter(self) -> str:
        """The name of a command's parameter: max_in_flight."""
        return self.name.partition("/")[0].removeprefix("--").replace("-", "_")


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a field's value comes from: `read` of its flags' values, in order, or the one value itself."""

    flags: tuple[Flag, ...]
    read: Callable[..., Any] | None

    def value(self, *written: Any) -> Any:
        return written[0] if self.read is None else self.read(*written)


def flag(
    name: str, help: str, panel: str | None = None, *, read: Callable[[Any], Any] | None = None, **rest: Any
) -> Any:
    """A dataclass field with one flag; see Flag. `read` makes the field's value of the written one."""
    return flags(Flag(name, help, panel, **rest), read=read)


def flags(*several: Flag, read: Callable[..., Any] | None) -> Any:
    """A dataclass field that `read` makes of the values of several flags, in their order."""
    source = _Source(several, read)
    metadata = {_KEY: source}
    defaults = [each.default for each in several]
    if REQUIRED in defaults:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default_factory=lambda: source.value(*defaults), metadata=metadata)


def flags_of(options: type) -> Iterator[tuple[Flag, Any]]:
    """Every flag of a dataclass in order, with the type of what is written."""
    for field in dataclasses.fields(options):
        for each in _flags(field):
            plain = field.type if each.default in (None, REQUIRED) else type(each.default)
            yield each, plain if each.kind is None else each.kind


def from_flags(options: type[Options], written: Mapping[str, Any], **fields: Any) -> Options:
    """An instance of `options`.

    written  values by Flag.parameter; a field that has none of its flags there keeps its default
    fields   values of fields, in the place of whatever was written

    Raises:
        UserError: from a field's reader or from the class's own checks.
    """
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        several = _flags(field)
        if field.name in fields or not any(each.parameter in written for each in several):
            continue
        values = [written.get(each.parameter, each.default) for each in several]
        fields[field.name] = field.metadata[_KEY].value(*values)
    return options(**fields)


def _flags(field: "dataclasses.Field[Any]") -> tuple[Flag, ...]:
    source: _Source | None = field.metadata.get(_KEY)
    return () if source is None else source.flags
