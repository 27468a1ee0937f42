"""A comparison as a document, a terminal table and an HTML page."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.report.compare import Row, compare, overall
from sgl_indexcache.loadtest.report.document import heading
from sgl_indexcache.loadtest.report.page import Section, figure, render
from sgl_indexcache.loadtest.units import show_seconds

SCHEMA = "sgl_indexcache.loadtest.compare/1"
_COLUMNS = ("group", "figure", "requests", "A", "B", "B/A", "95% interval", "verdict")
_STYLES = {"better": "green", "worse": "bold red", "same": "dim"}


def comparison(
    a: tuple[dict[str, Any], list[Record]], b: tuple[dict[str, Any], list[Record]], tolerance: float
) -> tuple[dict[str, Any], list[Row]]:
    """The document and its rows, for two loaded reports."""
    rows = compare(a[1], b[1], tolerance)
    word, sentence = overall(rows, a[0], b[0])
    document = {
        **heading(),
        "schema": SCHEMA,
        "verdict": word,
        "sentence": sentence,
        "tolerance": tolerance,
        "a": {"status": a[0]["status"], "created": a[0]["created"], "throughput": _throughput(a[0])},
        "b": {"status": b[0]["status"], "created": b[0]["created"], "throughput": _throughput(b[0])},
        "rows": [asdict(row) for row in rows],
    }
    return document, rows


def _throughput(document: dict[str, Any]) -> list[dict[str, float]]:
    keys = ("requests_per_s", "input_tokens_per_s", "output_tokens_per_s", "hit_rate", "failed")
    return [{"level": stage["level"], **{key: stage["summary"][key] for key in keys}} for stage in document["stages"]]


def cells(row: Row) -> list[str]:
    """A row as the texts of _COLUMNS."""
    interval = "–" if row.low is None or row.high is None else f"{row.low:.2f} to {row.high:.2f}"
    return [
        row.group,
        f"{row.metric} {row.statistic}",
        f"{row.count_a} / {row.count_b}",
        show_seconds(row.a),
        show_seconds(row.b),
        f"{row.ratio:.2f}",
        interval,
        row.verdict,
    ]


def print_comparison(document: dict[str, Any], rows: list[Row], console: Console) -> None:
    """A table and the verdict."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in _COLUMNS:
        # On a narrow terminal names may take two lines; a cut number would say nothing.
        left = column in ("group", "figure", "verdict")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "group")
    for row in rows:
        table.add_row(*cells(row), style=_STYLES.get(row.verdict))
    console.print(table)
    console.print(document["sentence"], style="bold", markup=False, soft_wrap=True)


def comparison_page(document: dict[str, Any], rows: list[Row], more: list[Section] | None = None) -> str:
    """A self-contained page. Raises ReportError: plotly is missing."""
    medians = [row for row in rows if row.statistic == "p50" and row.low is not None and row.high is not None]
    traces = []
    for metric in dict.fromkeys(row.metric for row in medians):
        chosen = [row for row in medians if row.metric == metric]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": metric,
                "x": [row.ratio for row in chosen],
                "y": [row.group for row in chosen],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [(row.high or row.ratio) - row.ratio for row in chosen],
                    "arrayminus": [row.ratio - (row.low or row.ratio) for row in chosen],
                },
            }
        )
    plot = figure("Ratio of medians, B over A, with 95% intervals (below 1: B is faster)", traces, "B/A", "")
    table = Section("By bucket", document["sentence"], _COLUMNS, [cells(row) for row in rows], [plot])
    good = document["verdict"] in ("better", "same")
    return render("Load test: A against B", f"verdict: {document['verdict']}", good, [*(more or []), table])
