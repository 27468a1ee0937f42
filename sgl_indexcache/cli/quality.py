"""`sgl-indexcache quality`: the table of loss, needle accuracy and recall of uniform and searched patterns."""

from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.cli.console import messages, out


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quality", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(quality)


def quality(
    context: typer.Context,
    model: Annotated[Path, typer.Option("--model", help="Model folder.")],
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
    length: Annotated[
        int | None, typer.Option("--length", help="Use the first LENGTH tokens of every sequence.")
    ] = None,
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
    draw: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw PNGs beside the JSON.")] = True,
) -> None:
    """Compare patterns on held-out data: all Full, uniform and searched.

    \b
    sgl-indexcache quality --model MODEL --text heldout.jsonl --needles needles.jsonl \\
        --search search/search.json --out quality
    """
    from sgl_indexcache.pattern import Pattern
    from sgl_indexcache.search import table
    from sgl_indexcache.search.errors import SearchError
    from sgl_indexcache.search.fleet import fleet
    from sgl_indexcache.search.journal import Journal
    from sgl_indexcache.search.model import read_model
    from sgl_indexcache.search.needles import read_needles
    from sgl_indexcache.search.plot import require_matplotlib
    from sgl_indexcache.search.progress import Bar
    from sgl_indexcache.search.quality import Row, Tasks, header, judge, rows_of
    from sgl_indexcache.search.sequences import read_sequences

    if draw:
        require_matplotlib()
    facts = read_model(model)
    rows = rows_of(facts, search, [budget.strip() for budget in budgets.split(",") if budget.strip()])
    for given in pattern or []:
        name, equals, letters = given.partition("=")
        if not equals:
            raise SearchError(f"pattern {given!r} has no name: write NAME=LETTERS")
        rows.append(Row(name, "given", Pattern.parse(letters, facts.layers)))
    held_out = read_sequences(text, facts, cache=folder / "tokens.json", length=length)
    if recall_tokens <= facts.top_k:
        raise SearchError(f"recall on {recall_tokens} tokens says nothing: a selection holds {facts.top_k}")
    tasks = Tasks(held_out, read_needles(needles, facts) if needles else None, recall_tokens, recall_samples)
    found = tasks.needles.tasks if tasks.needles else []
    longest = max([*map(len, held_out.ids), *(len(task.ids) + task.new_tokens for task in found)]) + 1
    total = tasks.units() * len({row.pattern for row in rows})
    with (
        messages.status("starting the engine") as status,
        fleet(
            facts,
            urls=url or [],
            arguments=context.args,
            out=folder,
            longest=longest,
            capture=True,
            waiting=lambda seconds: status.update(f"starting the engine, {seconds:.0f} s"),
        ) as engines,
    ):
        status.stop()
        settings = engines[0].facts()
        with (
            Journal(folder / "journal.jsonl", header(facts, tasks, settings)) as journal,
            Bar(messages, "forwards", total, len(engines)) as bar,
        ):
            judged = judge(facts, rows, tasks, engines, journal, bar.advance)
    out.print(table.write(folder, facts, judged, tasks, settings, draw), markup=False, soft_wrap=True)
