"""Options that several commands share, or that a dataclass declares: written down once."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sgl_indexcache.flags import REQUIRED, Flag, flags_of

ModelFolder = Annotated[Path, typer.Option("--model", help="Model folder.")]
SequenceLength = Annotated[int | None, typer.Option("--length", help="Use the first LENGTH tokens of every sequence.")]
Draw = Annotated[bool, typer.Option("--plot/--no-plot", help="Draw PNGs beside the JSON.")]
SERVER_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that starts a server: options that it does not know go there."""
Command = TypeVar("Command", bound=Callable[..., None])


def takes(
    options: type, *, only: Collection[str] | None = None, without: Collection[str] = (), **defaults: Any
) -> Callable[[Command], Command]:
    """Put the flags of a dataclass in the place of a command's `**options`: see sgl_indexcache/flags.py.

    The command's own keyword-only parameters follow them in --help, its others stand before.

    only, without  parameters to take, or to leave out
    defaults       of this command, in the place of the dataclass's
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters.values()
        shared = [
            _parameter(flag, kind, defaults.get(flag.parameter, flag.default))
            for flag, kind in flags_of(options)
            if flag.parameter not in without and (only is None or flag.parameter in only)
        ]
        before = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        after = [p for p in own if p.kind is p.KEYWORD_ONLY]
        parameters = (*before, *shared, *after)
        # typer reads both.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate


def _parameter(flag: Flag, kind: Any, default: Any) -> inspect.Parameter:
    option = typer.Option(flag.name, help=flag.help, rich_help_panel=flag.panel, min=flag.minimum)
    return inspect.Parameter(
        flag.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is REQUIRED else default,
        annotation=Annotated[kind, option],
    )
