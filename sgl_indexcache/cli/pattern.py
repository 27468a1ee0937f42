"""`sgl-indexcache pattern`: look at patterns and check them against a model."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from sgl_indexcache.cli.console import out
from sgl_indexcache.pattern import (
    Pattern,
    PatternError,
    Resolution,
    layer_count,
    presets,
    read_config,
    trace,
)
from sgl_indexcache.pattern.draw import legend, strip

SCHEMA = "sgl_indexcache.pattern/1"

_commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Show, check and make patterns: which layers run the indexer (F) and which reuse a selection (S).",
)

_Model = Annotated[
    Path | None, typer.Option("--model", help="Model folder (its config.json is read).", show_default=False)
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a drawing.")]
_Producers = Annotated[
    bool, typer.Option("--producers", help="List every Full layer with the layers that use its selection.")
]


def register(app: typer.Typer) -> None:
    """Add the command group `pattern` to the application."""
    app.add_typer(_commands, name="pattern")


@_commands.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            help="A model folder, a preset's name (see `presets`), letters F and S, or with --model also 1/N."
        ),
    ],
    model: _Model = None,
    producers: _Producers = False,
    as_json: _Json = False,
) -> None:
    """Draw a pattern, with its number of Full and Shared layers.

    \b
    sgl-indexcache pattern show glm5-1/4 --producers
    sgl-indexcache pattern show FSSSFSSS
    sgl-indexcache pattern show /models/my-model
    sgl-indexcache pattern show 1/4 --model /models/my-model
    """
    if model is None and _is_model(what):
        _report(trace(None, read_config(Path(what))), producers, as_json)
        return
    try:
        _report(trace(what, None if model is None else read_config(model)), producers, as_json)
    except PatternError as error:
        if "/" not in what or what.startswith("1/") or model is not None:
            raise
        raise PatternError(f"{error}; a model folder of this name does not exist either") from None


@_commands.command()
def check(
    what: Annotated[str, typer.Argument(metavar="PATTERN", help="Letters F and S, a preset's name, or 1/N.")],
    model: Annotated[Path, typer.Option("--model", help="Model folder (its config.json is read).")],
    as_json: _Json = False,
) -> None:
    """Say whether a pattern fits a model and SGLang would serve it as written.

    Exits with 0 when it does. SGLang itself checks little: it takes a missing
    or unknown letter for Full and ignores letters too many. Here such a
    pattern is refused, with exit code 2.

    \b
    sgl-indexcache pattern check FSSSFSSS --model /models/my-model
    """
    resolution = trace(what, read_config(model))
    if as_json:
        _report(resolution, False, True)
        return
    pattern = resolution.pattern
    out.print(f"accepted: {_counts(pattern)}", soft_wrap=True)
    out.print("SGLang takes it as", style="dim")
    override = json.dumps({"index_topk_pattern": pattern.letters})
    out.print(f"  --json-model-override-args '{override}'", soft_wrap=True, markup=False)


@_commands.command()
def uniform(
    freq: Annotated[int, typer.Option("--freq", min=1, help="One layer in FREQ is Full.")],
    layers: Annotated[
        int | None,
        typer.Option("--layers", min=1, max=10_000, help="Number of layers.", show_default=False),
    ] = None,
    model: _Model = None,
    offset: Annotated[
        int | None,
        typer.Option("--offset", min=1, help="Number of leading Full layers (SGLang's default: 2)."),
    ] = None,
    producers: _Producers = False,
    as_json: _Json = False,
) -> None:
    """Make a uniform pattern by SGLang's rule (index_topk_freq and index_skip_topk_offset).

    \b
    sgl-indexcache pattern uniform --layers 78 --freq 4 --offset 3
    sgl-indexcache pattern uniform --model /models/my-model --freq 2
    """
    if (layers is None) == (model is None):
        raise PatternError("the number of layers is needed once: give either --layers or --model")
    count = layer_count(read_config(model)) if model is not None else layers
    assert count is not None
    source = f"uniform freq={freq}" + ("" if offset is None else f" offset={offset}")
    _report(Resolution(Pattern.uniform(count, freq, offset), source), producers, as_json)


@_commands.command("presets")
def list_presets(as_json: _Json = False) -> None:
    """List the published patterns."""
    if as_json:
        rows = [
            {"name": preset.name, "model": preset.model, "published": preset.source}
            | _document(Resolution(Pattern.preset(preset.name), f"preset {preset.name}"))
            for preset in presets().values()
        ]
        typer.echo(json.dumps({"schema": "sgl_indexcache.presets/1", "presets": rows}))
        return
    table = Table("name", "model", "layers", "Full", "Shared", "source", box=None, pad_edge=False)
    for preset in presets().values():
        pattern = Pattern.preset(preset.name)
        table.add_row(
            preset.name,
            preset.model,
            str(len(pattern)),
            str(len(pattern.full_layers)),
            str(len(pattern.shared_layers)),
            preset.source,
        )
    out.print(table)


def _is_model(what: str) -> bool:
    # Letters and presets come first: `30b-1/2` is a path, too.
    return what not in presets() and not set(what) <= {"F", "S"} and os.path.exists(what)


def _report(resolution: Resolution, producers: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_document(resolution)))
        return
    pattern = resolution.pattern
    out.print(f"{_counts(pattern)} ({resolution.source})", markup=False, soft_wrap=True)
    out.print()
    out.print(strip(pattern, out.width), soft_wrap=True)
    out.print()
    out.print(legend(), soft_wrap=True)
    out.print(pattern.letters, soft_wrap=True)
    if producers:
        out.print()
        out.print(_producers_table(pattern))


def _counts(pattern: Pattern) -> str:
    full = len(pattern.full_layers)
    return f"{len(pattern)} layers: {full} Full, {len(pattern) - full} Shared, {pattern.ratio:.1%} run the indexer"


def _producers_table(pattern: Pattern) -> Table:
    table = Table("Full layer", "used by", "layers", box=None, pad_edge=False)
    for full in pattern.full_layers:
        served = pattern.served_by(full)
        used_by = str(full) if len(served) == 1 else f"{served[0]}-{served[-1]}"
        table.add_row(str(full), used_by, str(len(served)))
    return table


def _document(resolution: Resolution) -> dict[str, Any]:
    """The stable JSON shape of a pattern, `SCHEMA`.

    pattern                     the letters
    layers                      their number
    full_layers, shared_layers  layer numbers, ascending
    producers                   one layer number a layer, the Full layer whose selection it uses
    ratio                       Full over all layers
    source                      where the pattern came from, in words
    """
    pattern = resolution.pattern
    return {
        "schema": SCHEMA,
        "pattern": pattern.letters,
        "layers": len(pattern),
        "full_layers": list(pattern.full_layers),
        "shared_layers": list(pattern.shared_layers),
        "producers": [pattern.producer(layer) for layer in range(len(pattern))],
        "ratio": pattern.ratio,
        "source": resolution.source,
    }
