"""Options said once: a dataclass's fields are a command's flags."""

import dataclasses
from dataclasses import dataclass
from operator import not_
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from sgl_indexcache.cli.shared import takes
from sgl_indexcache.distill.plan import Plan
from sgl_indexcache.flags import REQUIRED, Flag, flag, flags, flags_of, from_flags
from sgl_indexcache.loadtest.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    name: str = flag("--name", "Who.")
    span: tuple[int, int] = flags(
        Flag("--low", "From.", "Ends", 1, minimum=0),
        Flag("--high", "To.", "Ends", 9),
        read=lambda low, high: (low, high),
    )
    loud: bool = flag("--quiet", "Whisper.", default=False, read=not_)
    both: bool = flag("--yes/--no", "Either.", default=True)
    hidden: int = 7


def invoke(*words: str, **shape: Any) -> tuple[Any, str]:
    app, result = typer.Typer(), []

    @app.command()
    @takes(Options, **shape)
    def command(
        first: Annotated[Path, typer.Argument()],
        *,
        last: Annotated[int, typer.Option("--last")] = 0,
        **options: Any,
    ) -> None:
        result.append((first, last, options))

    done = CliRunner().invoke(app, words, env={"COLUMNS": "120"})
    return (result[0] if result else None), done.output


def test_a_command_has_the_flags_of_the_class() -> None:
    (first, last, options), _ = invoke("a", "--name", "n", "--high", "5", "--no", "--last", "3")
    assert (first, last) == (Path("a"), 3)
    assert options == {"name": "n", "low": 1, "high": 5, "quiet": False, "yes": False}
    assert from_flags(Options, options) == Options(name="n", span=(1, 5), both=False)
    assert invoke("a")[0] is None, "--name is required"
    assert invoke("a", "--name", "n", "--low", "-1")[0] is None


def test_a_command_leaves_out_and_has_defaults_of_its_own() -> None:
    (_, _, options), _ = invoke("a", without=("name", "quiet"), high=4)
    assert options == {"low": 1, "high": 4, "yes": True}
    assert from_flags(Options, options, name="n") == Options(name="n", span=(1, 4))
    (_, _, options), _ = invoke("a", only=("low",))
    assert from_flags(Options, options, name="n", span=(0, 0)).span == (0, 0), "a field given stands"


def test_help_has_the_order_of_the_fields_between_the_commands_own() -> None:
    text = invoke("--help")[1]
    places = [text.index(name) for name in ("first", "--name", "--quiet", "--yes", "--last", "--low", "--high")]
    assert places == sorted(places)
    assert "hidden" not in text


@pytest.mark.parametrize("options", [RunOptions, Plan])
def test_each_flag_stands_once_and_its_default_is_the_fields(options: type) -> None:
    known = [each for each, _ in flags_of(options)]
    assert len({each.parameter for each in known}) == len(known)
    required = {"url": "http://127.0.0.1", "trace": Path("t")} if options is RunOptions else {}
    written = {each.parameter: each.default for each in known if each.default is not REQUIRED}
    # The folder of a run is named after the time.
    written.pop("out", None)
    plain, read = options(**required), from_flags(options, written, **required)
    for field in dataclasses.fields(options):
        if field.name != "out":
            assert getattr(plain, field.name) == getattr(read, field.name)
