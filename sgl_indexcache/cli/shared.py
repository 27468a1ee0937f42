"""Options that several commands share, written down once."""

import inspect
from collections.abc import Callable, Collection
from typing import Any, TypeVar

Command = TypeVar("Command", bound=Callable[..., None])


def takes(
    options: Callable[..., None], *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Command], Command]:
    """Put the parameters of `options` in the place of a command's `**options`, less `without`, with these defaults."""

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = [
            p.replace(kind=p.KEYWORD_ONLY, default=defaults.get(name, p.default))
            for name, p in inspect.signature(options).parameters.items()
            if name not in without
        ]
        # typer goes by both.
        command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
        return command

    return decorate
