"""`sgl-indexcache loadtest`: send traffic to a server, replay traces, compare runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sgl_indexcache.cli.console import messages, out
from sgl_indexcache.cli.shared import takes
from sgl_indexcache.flags import from_flags
from sgl_indexcache.loadtest.options import RunOptions

_commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Send agentic traffic to an OpenAI-compatible or SGLang server, and compare runs.",
)
_OF_TRACES = ("format", "speed")
_NOT_OF_AB = (
    *_OF_TRACES, "url", "model", "header", "api_key_env", "plain", "flush_cache", "extra_body", "respect_eos",
    "retries", "fail_if", "no_html", "quiet",
)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command group `loadtest` to the application."""
    app.add_typer(_commands, name="loadtest")


@_commands.command()
@takes(RunOptions, without=_OF_TRACES)
def run(
    workload: Annotated[str, typer.Argument(help="A preset (see `presets`) or a YAML file.")],
    **options: Any,
) -> None:
    """Send a workload and write report.json, requests.csv, summary.csv and report.html.

    Exits with 0 when every request succeeded and no --fail-if holds, 1
    otherwise, 130 after Ctrl-C (the report then holds what was measured).

    \b
    sgl-indexcache loadtest run coding-agent --url http://127.0.0.1:30000 --concurrency 8 --duration 5m
    sgl-indexcache loadtest run chat --url http://127.0.0.1:30000 --rate 1,2,4 --sessions 100 --slo ttft=2s,tpot=50ms
    """
    from sgl_indexcache.loadtest.execute import exit_code, run_and_report
    from sgl_indexcache.loadtest.workload.spec import load_workload

    what = {"workload": load_workload(workload, options["set"]), "workload_name": workload}
    document = run_and_report(from_flags(RunOptions, options, **what), out)
    raise typer.Exit(exit_code(document))


@_commands.command()
@takes(RunOptions, without=("set",), api="generate")
def replay(
    trace: Annotated[Path, typer.Argument(help="Mooncake JSONL, ShareGPT JSON, or a report.json of ours.")],
    **options: Any,
) -> None:
    """Send recorded traffic, at its own times (Mooncake, our reports) or by a load shape (ShareGPT).

    The whole trace is checked before anything is sent.

    \b
    sgl-indexcache loadtest replay trace.jsonl --url http://127.0.0.1:30000 --speed 2
    sgl-indexcache loadtest replay sharegpt.json --url http://127.0.0.1:30000 --api chat --concurrency 16
    """
    from sgl_indexcache.loadtest.execute import exit_code, run_and_report

    raise typer.Exit(exit_code(run_and_report(from_flags(RunOptions, options, trace=trace), out)))


@_commands.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Folder or report.json of the first run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Of the second; ratios are B over A.")],
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, max=1, help="Ratios 1 ± this are the same.")] = 0.05,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of different workloads, too.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    fail_on_worse: Annotated[bool, typer.Option("--fail-on-worse", help="Exit with 1 unless B is no worse.")] = False,
) -> None:
    """Compare two runs bucket by bucket: ratios, 95% bootstrap intervals, a verdict.

    \b
    sgl-indexcache loadtest compare before after --fail-on-worse
    """
    import msgspec

    from sgl_indexcache.loadtest.report.compare import check_comparable
    from sgl_indexcache.loadtest.report.comparison import comparison, comparison_page, print_comparison
    from sgl_indexcache.loadtest.report.document import load_report

    first, second = load_report(a), load_report(b)
    if not force:
        check_comparable(first[0], second[0])
    document, rows = comparison(first, second, tolerance)
    if as_json:
        typer.echo(msgspec.json.encode(document).decode())
    else:
        print_comparison(document, rows, out)
    if html is not None:
        html.write_text(comparison_page(document, rows), encoding="utf-8")
    bad = {"worse", "mixed", "invalid", "inconclusive"} if fail_on_worse else {"invalid"}
    raise typer.Exit(1 if document["verdict"] in bad else 0)


@_commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@takes(RunOptions, without=_NOT_OF_AB, api="generate", salt_value="ab")
def ab(
    context: typer.Context,
    model: Annotated[Path, typer.Option("--model-path", help="Model folder.")],
    pattern: Annotated[str, typer.Option("--pattern", help="What side B serves with: letters, a preset or 1/4.")],
    baseline: Annotated[
        str, typer.Option("--baseline", help="Side A: full (every layer Full), off (no plugin), or a pattern.")
    ] = "full",
    workload: Annotated[str, typer.Option("--workload", help="A preset or a YAML file.")] = "demo",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Runs a side; the order alternates.")] = 2,
    **options: Any,
) -> None:
    """Start two servers in turn, the standard one and one with the pattern, and report ratios with spread.

    What follows `--` goes to both servers.

    \b
    sgl-indexcache loadtest ab --model-path MODEL --pattern 1/4 --sessions 20 -- --mem-fraction-static 0.8
    """
    from sgl_indexcache.loadtest.ab import exit_code, run_ab, sides
    from sgl_indexcache.loadtest.workload.spec import load_workload

    what = {"workload": load_workload(workload, options["set"]), "workload_name": workload}
    # The address is each server's own.
    run = from_flags(RunOptions, options, url="http://127.0.0.1", **what)
    pair = sides(model, pattern, baseline, context.args)
    raise typer.Exit(exit_code(run_ab(pair, run, rounds, out)))


@_commands.command()
@takes(RunOptions, only=("fail_if",))
def report(
    path: Annotated[Path, typer.Argument(help="Folder or report.json of a run.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write the page here.")] = None,
    **options: Any,
) -> None:
    """Print a run's report again, write its HTML page, check conditions.

    \b
    sgl-indexcache loadtest report results --html page.html --fail-if "p99.ttft.warm > 1s"
    """
    from sgl_indexcache.loadtest.execute import exit_code
    from sgl_indexcache.loadtest.report.document import load_report
    from sgl_indexcache.loadtest.report.fail_if import parse_conditions, violations
    from sgl_indexcache.loadtest.report.html import page_of
    from sgl_indexcache.loadtest.report.text import print_report

    document, records = load_report(path)
    document["violated"] += violations(parse_conditions(options["fail_if"]), document["stages"])
    print_report(document, out)
    if html is not None:
        html.write_text(page_of(document, records), encoding="utf-8")
    raise typer.Exit(exit_code(document))


@_commands.command("presets")
def list_presets() -> None:
    """List the shipped workloads."""
    from sgl_indexcache.loadtest.workload.spec import presets

    for name, workload in presets().items():
        out.print(f"[bold]{name:<14}[/bold] {workload.about}", soft_wrap=True)
    messages.print("a workload file has the same keys; see docs/loadtest.md", style="dim")
