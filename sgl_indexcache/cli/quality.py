"""`sgl-indexcache quality`: the table of loss, needle accuracy and recall of uniform and searched patterns."""

from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.cli.console import messages, out
from sgl_indexcache.cli.shared import SERVER_FLAGS, Draw, ModelFolder, SequenceLength


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quality", context_settings=SERVER_FLAGS)(quality)


def quality(
    context: typer.Context,
    model: ModelFolder,
    text: Annotated[Path, typer.Option("--text", help='Held-out JSON lines, each {"text": ...} or {"ids": [...]}.')],
    folder: Annotated[Path, typer.Option("--out", help="Folder for the results; an interrupted run resumes.")],
    search: Annotated[
        Path | None, typer.Option("--search", help="search.json whose patterns are compared with uniform ones.")
    ] = None,
    needles: Annotated[
        Path | None,
        typer.Option("--needles", help='JSON lines, each {"text" or "ids": prompt, "answer": text or ids}.'),
    ] = None,
    budgets: Annotated[str, typer.Option("--budgets", help="Shares of Full layers.")] = "1/2,1/4,1/8",
    pattern: Annotated[
        list[str] | None, typer.Option("--pattern", help="A further row, NAME=LETTERS; may be repeated.")
    ] = None,
    length: SequenceLength = None,
    recall_tokens: Annotated[
        int, typer.Option("--recall-tokens", help="Measure recall on so many tokens of a sequence.")
    ] = 2048,
    recall_samples: Annotated[
        int, typer.Option("--recall-samples", min=1, help="Measure recall on so many sequences.")
    ] = 4,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", help="A running server with --enable-return-indexer-topk; may be repeated."),
    ] = None,
    draw: Draw = True,
) -> None:
    """Compare patterns on held-out data: all Full, uniform and searched.

    \b
    sgl-indexcache quality --model MODEL --text heldout.jsonl --needles needles.jsonl \\
        --search search/search.json --out quality
    """
    from sgl_indexcache.live.fleet import measured_engines
    from sgl_indexcache.live.model import read_model
    from sgl_indexcache.live.needles import read_needles
    from sgl_indexcache.live.progress import Bar
    from sgl_indexcache.live.sequences import read_sequences
    from sgl_indexcache.pattern import Pattern
    from sgl_indexcache.quality import table
    from sgl_indexcache.quality.errors import QualityError
    from sgl_indexcache.quality.judge import Row, Tasks, header, judge, rows_of
    from sgl_indexcache.results import require_matplotlib
    from sgl_indexcache.search.journal import Journal

    if draw:
        require_matplotlib()
    facts = read_model(model)
    rows = rows_of(facts, search, [budget.strip() for budget in budgets.split(",") if budget.strip()])
    for spec in pattern or []:
        name, equals, letters = spec.partition("=")
        if not equals:
            raise QualityError(f"pattern {spec!r} has no name: write NAME=LETTERS")
        rows.append(Row(name, "given", Pattern.parse(letters, facts.layers)))
    held_out = read_sequences(text, facts, cache=folder / "tokens.json", length=length)
    if recall_tokens <= facts.top_k:
        raise QualityError(f"recall on {recall_tokens} tokens says nothing: a selection holds {facts.top_k}")
    tasks = Tasks(held_out, read_needles(needles, facts) if needles else None, recall_tokens, recall_samples)
    total = tasks.units() * len({row.pattern for row in rows})
    with measured_engines(
        facts, messages, urls=url or [], arguments=context.args, out=folder, longest=tasks.longest(), capture=True
    ) as engines:
        settings = engines[0].facts()
        with (
            Journal(folder / "journal.jsonl", header(facts, tasks, settings)) as journal,
            Bar(messages, "forwards", total, len(engines)) as bar,
        ):
            judgements = judge(facts, rows, tasks, engines, journal, bar.advance)
    out.print(table.write(folder, facts, judgements, tasks, settings, draw), markup=False, soft_wrap=True)
