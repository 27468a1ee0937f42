"""`sgl-indexcache plot`: draw the PNGs of a result again, from its JSON."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sgl_indexcache.cli.console import out


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plot")(plot)


def plot(
    result: Annotated[Path, typer.Argument(help="search.json, quality.json or overlap.json.")],
) -> None:
    """Draw the plots of a finished search, quality table or overlap beside its JSON.

    For machines that have no matplotlib: run there with --no-plot, and this wherever it is.
    """
    from sgl_indexcache.overlap import plot as overlap_plot
    from sgl_indexcache.overlap import run as overlap
    from sgl_indexcache.quality import table as quality
    from sgl_indexcache.results import ResultError, require_matplotlib
    from sgl_indexcache.search import plot as search_plot
    from sgl_indexcache.search import report as search

    try:
        report: dict[str, Any] = json.loads(result.read_text())
        schema = report["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ResultError(f"{result} is no result: give a search.json, quality.json or overlap.json") from None
    require_matplotlib()
    folder = result.parent
    if schema == search.SCHEMA:
        search_plot.loss_against_budget(folder / "loss.png", report)
    elif schema == quality.SCHEMA:
        quality.plot(folder / "quality.png", report)
    elif schema == overlap.SCHEMA:
        overlap_plot.draw(folder, report)
    else:
        raise ResultError(f"{result} has the schema {schema}, which has no plot: give a search, quality or overlap")
    out.print(f"drawn beside {result}", soft_wrap=True)
