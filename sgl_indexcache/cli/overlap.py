"""`sgl-indexcache overlap`: how alike the selections of layers, queries and decode steps are."""

from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.cli.console import messages, out
from sgl_indexcache.cli.shared import SERVER_FLAGS, Draw, ModelFolder


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("overlap", context_settings=SERVER_FLAGS)(overlap)


def overlap(
    context: typer.Context,
    model: ModelFolder,
    text: Annotated[Path, typer.Option("--text", help="A text file, or JSON lines as for search.")],
    lengths: Annotated[str, typer.Option("--lengths", help="Context lengths in tokens, such as 1024,4096.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results.")],
    samples: Annotated[int, typer.Option("--samples", min=1, help="Sequences of every length.")] = 2,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Queries compared in every sequence.")] = 256,
    decode_steps: Annotated[
        int, typer.Option("--decode-steps", min=0, help="Tokens generated after every sequence.")
    ] = 32,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A running server with --enable-return-indexer-topk."),
    ] = None,
    draw: Draw = True,
) -> None:
    """Measure |A ∩ B| / k between layers, neighbouring queries and decode steps, on a live engine.

    \b
    sgl-indexcache overlap --model MODEL --text book.txt --lengths 1024,2048,4096 --out overlap
    """
    from rich.table import Table

    from sgl_indexcache.live.fleet import measured_engines
    from sgl_indexcache.live.model import read_model
    from sgl_indexcache.overlap import run
    from sgl_indexcache.overlap.errors import OverlapError
    from sgl_indexcache.overlap.text import windows
    from sgl_indexcache.results import require_matplotlib

    if draw:
        require_matplotlib()
    facts = read_model(model)
    try:
        sizes = [int(length) for length in lengths.split(",")]
    except ValueError:
        raise OverlapError(f"lengths {lengths!r} are not understood: write numbers, such as 1024,4096") from None
    cut = windows(text, facts, sizes, samples)
    longest = max(cut) + decode_steps + 1
    run.check_size(facts, longest)
    urls = [url] if url else []
    with measured_engines(
        facts, messages, urls=urls, arguments=context.args, out=folder, longest=longest, capture=True
    ) as engines:
        results = run.overlap(
            facts,
            cut,
            engines[0],
            folder,
            decode_steps=decode_steps,
            rows=rows,
            source=text.name,
            console=messages,
            draw=draw,
        )
    table = Table(title="share of a selection in common")
    for heading in ("tokens", "adjacent layers", "all pairs", "next query", "next decode step", "chance"):
        table.add_column(heading, justify="right")
    for result in results:
        figures = result.described()
        pairs = (result.layers.sum() - facts.layers) / max(facts.layers * (facts.layers - 1), 1)
        values = [
            figures["adjacent_layers_mean"],
            pairs,
            figures["between_queries"]["mean"][0],
            figures["between_decode_steps"]["mean"],
            result.chance,
        ]
        table.add_row(str(result.length), *("–" if value is None else f"{value:.1%}" for value in values))
    out.print(table)
