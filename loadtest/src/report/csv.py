"""CSV: one line a request, and one line a figure."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sgl_indexcache.loadtest.measure.record import LATENCIES, Record

_FIELDS = tuple(field.name for field in msgspec.structs.fields(Record))


def write_requests(path: Path, records: Iterable[Record]) -> None:
    """Every field of every record, then the derived durations; seconds; empty where unknown."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*_FIELDS, *LATENCIES])
        for record in records:
            row = [getattr(record, name) for name in (*_FIELDS, *LATENCIES)]
            writer.writerow([_cell(value) for value in row])


def write_summary(path: Path, document: dict[str, Any]) -> None:
    """One line per stage, group and metric: count, mean, percentiles; seconds."""
    columns = ("count", "mean", "min", "p50", "p90", "p95", "p99", "max")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "group", "metric", *columns])
        for stage in document["stages"]:
            for group, figures in stage["summary"]["groups"].items():
                for metric, values in figures["latency"].items():
                    cells = [_cell(values[column]) for column in columns]
                    writer.writerow([stage["label"], group, metric, *cells])


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}"
    # A spreadsheet takes a leading = + - @ for a formula, and error texts come from the server.
    if isinstance(value, str) and value[:1] in "=+-@\t\r" and value:
        return "'" + value
    return value
