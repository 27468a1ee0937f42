"""`sgl-indexcache search`: find a pattern for a model without training, on a live engine."""

from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.cli.console import messages, out

_SERVER_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search", context_settings=_SERVER_FLAGS)(search)


def search(
    context: typer.Context,
    model: Annotated[Path, typer.Option("--model", help="Model folder.")],
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
    length: Annotated[
        int | None, typer.Option("--length", help="Use the first LENGTH tokens of every sequence.")
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", help="A running server; several measure candidates side by side."),
    ] = None,
    draw: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw PNGs beside the JSON.")] = True,
) -> None:
    """Find the layers that can share a selection at the least loss (no training, no reload).

    Starts a server of its own, or uses running ones (`sgl-indexcache serve` with
    --disable-prefill-cuda-graph --disable-decode-cuda-graph), which get their pattern back at the end. Flags
    that are not listed here go to the server.

    \b
    sgl-indexcache search --model MODEL --calibration texts.jsonl --keep 1/4 --out search
    sgl-indexcache serve --model-path MODEL --config search/indexcache.yaml
    """
    import numpy as np

    from sgl_indexcache.overlap.measure import between_layers, telling_rows
    from sgl_indexcache.pattern import Pattern
    from sgl_indexcache.pattern.draw import strip
    from sgl_indexcache.search import run
    from sgl_indexcache.search.budget import full_layers
    from sgl_indexcache.search.engine import Engine
    from sgl_indexcache.search.evaluate import EngineWorker
    from sgl_indexcache.search.fleet import fleet
    from sgl_indexcache.search.model import read_model
    from sgl_indexcache.search.plot import require_matplotlib
    from sgl_indexcache.search.sequences import read_sequences

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

    def alike(engine: Engine) -> np.ndarray:
        engine.switch(Pattern("F" * facts.layers))
        found = []
        for ids in sequences.ids:
            selections = engine.selections(ids, facts.layers, facts.top_k)
            found.append(between_layers(selections, telling_rows(len(ids), facts.top_k, 256)))
        return np.array(np.mean(found, axis=0))

    with (
        messages.status("starting the engine") as status,
        fleet(
            facts,
            urls=url or [],
            arguments=context.args,
            out=folder,
            longest=max(map(len, sequences.ids)) + 1,
            capture=plan.scorer == "similarity",
            waiting=lambda seconds: status.update(f"starting the engine, {seconds:.0f} s"),
        ) as engines,
    ):
        status.stop()
        outcome = run.search(
            facts,
            sequences,
            plan,
            [EngineWorker(engine, sequences) for engine in engines],
            folder,
            settings=engines[0].facts(),
            console=messages,
            similarity=lambda: alike(engines[0]),
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
