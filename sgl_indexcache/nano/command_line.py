"""`python -m sgl_indexcache.nano`: a subcommand a tool. Each tool's module has a `command` with its options.

Modules are imported when their subcommand is run or asked for help: many need torch, the cards only matplotlib.
"""

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from sgl_indexcache.errors import UserError

PACKAGE = "sgl_indexcache.nano"


@dataclass(frozen=True, slots=True)
class Tool:
    """The module, below PACKAGE, that has the `command`; and what it does, for the list."""

    module: str
    summary: str

    @property
    def part(self) -> str:
        """The subpackage that it lies in; empty for none."""
        return self.module.rpartition(".")[0]


TOOLS = {
    "random-model": Tool("random_model", "Write a tiny checkpoint with random weights."),
    "corpus": Tool("training.corpus", "Fetch the training text and pack it."),
    "train": Tool("training.train", "Train the model, or go on with a run."),
    "export": Tool("training.export", "Write a training state as a checkpoint."),
    "evaluate": Tool("studies.evaluate", "Measure a training state: loss, needles, recall of attention."),
    "probes": Tool("studies.probes", "Write the files on which patterns are searched and judged."),
    "search": Tool("studies.searched", "Search a pattern with the training code, on a bare GPU."),
    "distill": Tool("studies.distillation", "Distill retained indexers, and measure what it brings."),
    "shortlist": Tool("studies.shortlist_quality", "Two-level scoring on the CPU against the size of its lists."),
    "page-rules": Tool("studies.page_rules.study", "Compare rules that choose the pages of a list."),
    "served": Tool("studies.served", "Two-level scoring through the real server."),
    "card": Tool("cards.card", "Write the model's card, docs/results/nano.md."),
    "distill-card": Tool("cards.distilled_card", "Write docs/results/distill.md."),
}


class ListCommand(TyperCommand):
    """A command whose list options take several values at once: `--lengths 2000 8000`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The words as they came, for a tool that reports how it was run.
        ctx.obj = list(args)
        lists = [name for parameter in self.params if getattr(parameter, "multiple", False) for name in parameter.opts]
        return list(super().parse_args(ctx, repeated(args, lists)))


def repeated(words: Sequence[str], lists: Collection[str]) -> list[str]:
    """`--flag a b` as `--flag a --flag b`, as typer wants it, for the flags of `lists`; nothing changes after `--`."""
    result: list[str] = []
    flag, has_value = "", False
    for number, word in enumerate(words):
        if word == "--":
            return [*result, *words[number:]]
        if word.startswith("-"):
            flag, has_value = (word if word in lists else ""), False
        elif flag and has_value:
            result.append(flag)
        else:
            has_value = True
        result.append(word)
    return result


class Tools(TyperGroup):
    """The subcommands of TOOLS, imported one at a time."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(TOOLS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """From the table, so that the list imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, tool.summary) for name, tool in TOOLS.items()])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The tool as a typer command; None: there is none of this name.

        Raises:
            UserError: it lies in a part of the repository that is not installed.
        """
        if cmd_name not in TOOLS:
            return None
        tool = TOOLS[cmd_name]
        if tool.part and find_spec(f"{PACKAGE}.{tool.part.partition('.')[0]}") is None:
            raise UserError(
                f"`{cmd_name}` is not in the wheel: run it from a clone of the repository, after `pip install -e .`"
            )
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name, cls=ListCommand)(import_module(f"{PACKAGE}.{tool.module}").command)
        return typer.main.get_command(alone)


# Defects keep a plain traceback, as in cli/app.py.
app = typer.Typer(
    cls=Tools,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """Tools of the small DSA models: random ones for tests, and how the trained one was made and is measured.

    `python -m sgl_indexcache.nano COMMAND --help` says what a command takes.
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line with these words, by default the process's; returns the exit status.

    0 success; 2 a UserError (one line `error: ...` on stderr) or wrong usage; a tool's help names any other.
    """
    try:
        app(arguments, prog_name=f"python -m {PACKAGE}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        # typer leaves so, also with 0.
        return int(stop.code or 0)
    return 0
