"""Run, write the files, say what came out, and which exit code it deserves."""

import asyncio
from pathlib import Path
from typing import Any

from rich.console import Console

from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.report import csv
from sgl_indexcache.loadtest.report.text import print_report
from sgl_indexcache.loadtest.runner import Run

OK, FAILED, INTERRUPTED = 0, 1, 130


def run_and_report(options: RunOptions, console: Console) -> dict[str, Any]:
    """Execute the run and write report.json, requests.csv, summary.csv and report.html into `options.out`.

    Returns the report without its requests. Raises UserError for what cannot be run at all.
    """
    run = Run(options, console)
    try:
        _loop_run(run)
        csv.write_requests(options.out / "requests.csv", run.spool.records())
        csv.write_summary(options.out / "summary.csv", run.document)
        # The JSON comes last of the three: it takes the records over, and its presence says all are there.
        run.spool.finish(run.document, options.out / "report.json")
    except BaseException:
        run.spool.close()
        raise
    if options.html:
        _write_html(options.out, console)
    if not options.quiet:
        print_report(run.document, console)
        console.print(f"report: {options.out}", markup=False, soft_wrap=True)
    return run.document


def exit_code(document: dict[str, Any]) -> int:
    """0 only for a run without failures, without violated conditions and not interrupted."""
    if document["status"] == "interrupted":
        return INTERRUPTED
    return OK if document["status"] == "ok" and not document["violated"] else FAILED


def _loop_run(run: Run) -> None:
    try:
        import uvloop
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run.execute())


def _write_html(out: Path, console: Console) -> None:
    from sgl_indexcache.loadtest.errors import ReportError
    from sgl_indexcache.loadtest.report.html import write_html

    try:
        write_html(out / "report.json", out / "report.html")
    except ReportError as error:
        console.print(f"no HTML report: {error}", markup=False, soft_wrap=True)
