"""The report for the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from sgl_indexcache.loadtest.measure.record import EXPLANATIONS
from sgl_indexcache.loadtest.units import show_seconds

# Seven figures fit a terminal of 100 columns; all others stand in the files.
_COLUMNS = (
    ("TTFT p50", "ttft", "p50"), ("p99", "ttft", "p99"), ("intended p99", "ttft_intended", "p99"),
    ("TPOT p50", "tpot", "p50"), ("p99", "tpot", "p99"), ("gap p99", "itl", "p99"), ("e2e p50", "e2e", "p50"),
)  # fmt: skip


def print_report(document: dict[str, Any], console: Console) -> None:
    """Every stage as a table, failures by kind, violated conditions, and the status."""
    for stage in document["stages"]:
        _stage(stage, console)
    change = document["server"]["change"]
    looked, skipped = (change.get(f"indexcache.work.{name}_keys") for name in ("full", "shared"))
    if looked and skipped is not None:
        share = skipped / (looked + skipped)
        console.print(f"indexer work: {looked:,.0f} keys looked at, {skipped:,.0f} skipped ({share:.0%} saved)")
    for reason in document["violated"]:
        console.print(f"violated: {reason}", style="bold red", markup=False, soft_wrap=True)
    style = "bold green" if document["status"] == "ok" and not document["violated"] else "bold red"
    console.print(f"status: {document['status']}", style=style)


def _stage(stage: dict[str, Any], console: Console) -> None:
    summary = stage["summary"]
    table = Table(title=stage["label"], title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("requests", justify="right")
    table.add_column("hits", justify="right")
    for heading, _, _ in _COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, group in summary["groups"].items():
        hits = "–" if group["hit_rate"] is None else f"{group['hit_rate']:.0%}"
        latency = group["latency"]
        cells = [show_seconds(latency.get(metric, {}).get(figure)) for _, metric, figure in _COLUMNS]
        table.add_row(name, str(group["requests"]), hits, *cells)
    console.print(table)
    console.print(
        f"{summary['succeeded']} succeeded, {summary['failed']} failed, {summary['retries']} retries in "
        f"{summary['duration']:.1f} s; {summary['requests_per_s']:.2f} requests/s; "
        f"{summary['input_tokens_per_s']:,.0f} input and {summary['output_tokens_per_s']:,.1f} output tokens/s",
        soft_wrap=True,
    )
    if (slo := summary["slo"]) is not None:
        limits = ", ".join(f"{name} {show_seconds(value)}" for name, value in slo["limits"].items())
        console.print(f"goodput: {slo['goodput']:.1%} within {limits}; {slo['requests_per_s']:.2f} requests/s")
    for kind, number in summary["failures"].items():
        console.print(f"  {kind}: {number} ({EXPLANATIONS.get(kind, '')})", style="red", markup=False)
    if summary["skipped_turns"]:
        console.print(f"  {summary['skipped_turns']} turns not sent, because one before them failed", style="red")
