"""Options that several commands share, written down once."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

ModelFolder = Annotated[Path, typer.Option("--model", help="Model folder.")]
SequenceLength = Annotated[int | None, typer.Option("--length", help="Use the first LENGTH tokens of every sequence.")]
Draw = Annotated[bool, typer.Option("--plot/--no-plot", help="Draw PNGs beside the JSON.")]
SERVER_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that starts a server: options that it does not know go there."""

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
