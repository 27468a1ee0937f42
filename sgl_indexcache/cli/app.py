"""The typer application and the entry point of the console script."""

import sys
from typing import Annotated

import typer

from sgl_indexcache import __version__
from sgl_indexcache.cli import (
    bench,
    distill,
    doctor,
    health,
    loadtest,
    overlap,
    pattern,
    plot,
    quality,
    search,
    serve,
    top,
)
from sgl_indexcache.cli.console import print_error
from sgl_indexcache.errors import UserError

# Every module has `register(app)`. They import torch, sglang and other slow things inside their functions,
# so that help stays quick.
COMMANDS = (serve, doctor, health, pattern, search, quality, overlap, distill, plot, loadtest, bench, top)

# Defects keep a plain traceback: typer's own one can print local variables.
app = typer.Typer(
    name="sgl-indexcache",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"sgl-indexcache {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """IndexCache for SGLang: less indexer work for models with DeepSeek Sparse Attention.

    In such a model every layer runs a small scorer, the lightning indexer,
    that selects which earlier tokens the layer attends to. Neighbouring
    layers select almost the same tokens. With IndexCache only some layers run
    the indexer ([bold]Full[/bold], letter F); the others ([bold]Shared[/bold],
    letter S) reuse the selection of the nearest Full layer before them. A
    [bold]pattern[/bold] holds one letter for each layer.

    [bold]Examples[/bold]

    \b
    sgl-indexcache doctor                       can this machine serve?
    sgl-indexcache pattern presets              list the published patterns
    sgl-indexcache pattern show glm5-1/4        draw one of them
    sgl-indexcache pattern show /models/mine    what a model's own config says
    sgl-indexcache serve --model-path /models/mine --pattern 1/4
    """


for _module in COMMANDS:
    _module.register(app)


def main() -> None:
    """Run the command line; the target of the console script.

    Exit codes: 0 success; 2 a UserError (one line `error: ...` on stderr) or wrong usage; 130 interrupted.
    Any other exception is a defect and keeps its traceback.
    """
    try:
        app(prog_name="sgl-indexcache")
    except UserError as error:
        print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
