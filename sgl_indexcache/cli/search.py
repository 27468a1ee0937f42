"""`sgl-indexcache search`: find a pattern for a model without training, on a live engine."""

from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.cli.console import messages, out
from sgl_indexcache.cli.shared import SERVER_FLAGS, Draw, ModelFolder, SequenceLength


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search", context_settings=SERVER_FLAGS)(search)


def search(
    context: typer.Context,
    model: ModelFolder,
    calibration: Annotated[
        Path, typer.Option("--calibration", help='JSON lines, each {"text": ...} or {"ids": [...]}.')
    ],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results; an interrupted search resumes.")],
    keep: Annotated[str, typer.Option("--keep", help="Full layers to keep: 1/4, or a number.")] = "1/4",
    scorer: Annotated[
        str,
        typer.Option("--scorer", help="loss (the paper's search), or for comparison similarity or uniform."),
    ] = "loss",
    blocks: Annotated[
        int | None,
        typer.Option("--blocks", help="Search so many consecutive blocks one by one: fewer forwards."),
    ] = None,
    length: SequenceLength = None,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", help="A running server; several measure candidates side by side."),
    ] = None,
    draw: Draw = True,
) -> None:
    """Find the layers that can share a selection at the least loss (no training, no reload).

    Starts a server of its own, or uses running ones (`sgl-indexcache serve` with
    --disable-prefill-cuda-graph --disable-decode-cuda-graph), which get their pattern back at the end. Flags
    that are not listed here go to the server.

    \b
    sgl-indexcache search --model MODEL --calibration texts.jsonl --keep 1/4 --out search
    sgl-indexcache serve --model-path MODEL --config search/indexcache.yaml
    """
    from sgl_indexcache.live.fleet import measured_engines
    from sgl_indexcache.live.model import read_model
    from sgl_indexcache.live.sequences import read_sequences
    from sgl_indexcache.pattern.draw import strip
    from sgl_indexcache.results import require_matplotlib
    from sgl_indexcache.search import run
    from sgl_indexcache.search.budget import full_layers
    from sgl_indexcache.search.evaluate import EngineWorker
    from sgl_indexcache.search.similarity import similarity_of

    if draw:
        require_matplotlib()
    facts = read_model(model)
    plan = run.Plan(full_layers(keep, facts.layers), scorer, blocks)  # type: ignore[arg-type]
    total = plan.forwards(facts.layers)
    sequences = read_sequences(calibration, facts, cache=folder / "tokens.json", length=length)
    messages.print(
        f"{facts.name}: {facts.layers} layers, {len(sequences.ids)} sequences of {sequences.tokens:,} tokens in all, "
        f"{total} patterns to measure"
    )

    longest, capture = max(map(len, sequences.ids)) + 1, plan.scorer == "similarity"
    with measured_engines(
        facts, messages, urls=url or [], arguments=context.args, out=folder, longest=longest, capture=capture
    ) as engines:
        outcome = run.search(
            facts,
            sequences,
            plan,
            [EngineWorker(engine, sequences) for engine in engines],
            folder,
            settings=engines[0].facts(),
            console=messages,
            similarity=lambda: similarity_of(facts, sequences, engines[0]),
            draw=draw,
        )
    out.print(strip(outcome.pattern))
    full = len(outcome.pattern.full_layers)
    out.print(
        f"{outcome.pattern}  {full} of {facts.layers} layers Full, loss {outcome.loss:.5f} "
        f"({outcome.increase:+.3%} over all Full)"
    )
    out.print(
        f"serve it: sgl-indexcache serve --model-path {model} --config {folder / 'indexcache.yaml'}",
        soft_wrap=True,
    )
