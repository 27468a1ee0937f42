"""The figures on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

NONE = "–"


def percent(value: float | None) -> str:
    """12.3 %, or a dash."""
    return NONE if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """1234, 12.3 k, 4.5 M, 6.7 G."""
    if value is None:
        return NONE
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == ' k' else limit):.1f}{unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Bytes as KiB, MiB or GiB."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if value >= 2**power:
            return f"{value / 2**power:.1f} {unit}"
    return f"{value:.0f} B"


def screen(report: Mapping[str, Any], recent: Sequence[str], notice: str = "") -> RenderableType:
    """Everything; `recent` are lines about events, newest last, `notice` is shown in the head."""
    return _Fitted(report, recent, notice)


class _Fitted:
    """Gives the events the lines that the rest leaves over."""

    def __init__(self, report: Mapping[str, Any], recent: Sequence[str], notice: str) -> None:
        self._report, self._recent, self._notice = report, recent, notice

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self._report
        panels = [_indexer(report), _serving(report), _store(report), _recall(report)]
        columns = 2 if options.max_width >= 76 else 1
        grid = Table.grid(expand=True)
        for _ in range(columns):
            grid.add_column(ratio=1)
        for first in range(0, len(panels), columns):
            grid.add_row(*panels[first : first + columns])
        above = Group(_head(report, self._notice), grid, _layers(report))
        used = len(console.render_lines(above, options.update(height=None)))
        lines = max(0, (options.height or console.height) - used - 2)
        yield above
        if lines:
            yield _events(report, self._recent[-lines:])


def _head(report: Mapping[str, Any], notice: str) -> Text:
    pattern = str(report["pattern"] or "")
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("sgl-indexcache ", style="bold")
    text.append(f"{report['version']}  {report['url']}  {report['model']}\n")
    text.append("active" if report["active"] else "not active", style="green" if report["active"] else "bold red")
    text.append(f"  {pattern.count('F')} Full, {pattern.count('S')} Shared  scoring {report['scoring']}  ")
    span = report["interval_s"]
    text.append("since the start" if span is None else f"last {span:.0f} s", style="dim")
    if notice:
        text.append(f"\n{notice}", style="bold red")
    return text


def _panel(title: str, rows: Sequence[tuple[str, RenderableType]]) -> Panel:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True, style="dim", width=14)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for name, value in rows:
        table.add_row(name, value)
    return Panel(table, title=title, title_align="left", border_style="dim", padding=(0, 1))


def _bar(value: float | None, text: str) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(width=8, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(text, ProgressBar(total=1.0, completed=value or 0.0, complete_style="cyan", finished_style="cyan"))
    return grid


def _indexer(report: Mapping[str, Any]) -> Panel:
    keys, rows = report["indexer"]["keys"], report["indexer"]["rows"]
    by_reason = keys["skipped_share_by_reason"]
    return _panel(
        "indexer",
        [
            ("keys skipped", _bar(keys["skipped_share"], percent(keys["skipped_share"]))),
            ("  Shared layers", percent(by_reason.get("producer"))),
            ("  snapshots", percent(by_reason.get("snapshot"))),
            ("  shortlists", percent(by_reason.get("shortlist"))),
            ("rows skipped", f"{percent(rows['skipped_share'])} of {count(rows['skipped'] + rows['scored'])}"),
        ],
    )


def _serving(report: Mapping[str, Any]) -> Panel:
    serving, latency = report["serving"], report["latency"]
    if serving is None or latency is None:
        return _panel("serving", [("latencies", "need --enable-metrics")])
    speed = f"in {count(serving['prompt_tokens'])}, out {count(serving['generated_tokens'])}"
    if serving["prompt_tokens_per_s"] is not None:
        speed = f"in {count(serving['prompt_tokens_per_s'])}/s, out {count(serving['generated_tokens_per_s'])}/s"
    return _panel(
        "serving",
        [
            ("requests", f"{count(serving['running'])} running, {count(serving['waiting'])} waiting"),
            ("tokens", speed),
            ("prefix hits", f"{percent(serving['prefix_hit_rate'])}, KV {percent(serving['kv_used_share'])} full"),
            ("TTFT", _quantiles(latency["ttft_ms"])),
            ("between tokens", _quantiles(latency["itl_ms"])),
        ],
    )


def _quantiles(times: Mapping[str, float] | None) -> str:
    return NONE if times is None else f"{times['p50']:.0f} ms, p90 {times['p90']:.0f}, p99 {times['p99']:.0f}"


def _store(report: Mapping[str, Any]) -> Panel:
    store, snapshots = report["store"], report["snapshots"]
    slots = store["held"] + store["live"] + store["free"]
    return _panel(
        "index store",
        [
            ("snapshot hits", f"{percent(snapshots['hit_rate'])} of {count(snapshots['lookups'])}"),
            ("snapshots", _bar(store["used_share"], percent(store["used_share"]))),
            ("  held, slots", f"{count(store['held'])} of {count(slots)}, {count(snapshots['evicted'])} evicted"),
            ("page records", f"{count(store['pages_valid'])} of {count(store['pages'])} valid"),
            ("memory", size(store["bytes"])),
        ],
    )


def _recall(report: Mapping[str, Any]) -> Panel:
    recall = report["recall"]
    below = recall["mean"] is not None and recall["mean"] < recall["floor"]
    kernels = {phase: ", ".join(sorted(set(used.values()))) for phase, used in report["kernels"].items()}
    return _panel(
        "recall and kernels",
        [
            ("recall", Text(percent(recall["mean"]), style="bold red" if below else "")),
            ("  floor", percent(recall["floor"]) if recall["floor"] else NONE),
            ("sampled rows", count(recall["sampled_rows"])),
            ("fallbacks", ", ".join(f"{count(value)} {name}" for name, value in recall["fallbacks"].items())),
            ("kernels", "; ".join(f"{phase} {name}" for phase, name in sorted(kernels.items())) or NONE),
        ],
    )


def _layers(report: Mapping[str, Any]) -> Panel:
    floor = report["recall"]["floor"]
    cells = []
    for layer in report["layers"]:
        full, recall = layer["kind"] == "F", layer["recall"]
        style = "bold cyan" if full else "dim"
        if full and recall is not None and recall < floor:
            style = "bold red"
        note = f"{100 * recall:.0f}" if full and recall is not None else ""
        cells.append(Text(f"{layer['kind']}{note}", style=style))
    note = (
        "layers (F with its recall in %)"
        if any(layer["recall"] is not None for layer in report["layers"])
        else "layers"
    )
    return Panel(Columns(cells, padding=(0, 1)), title=note, title_align="left", border_style="dim", padding=(0, 1))


def _events(report: Mapping[str, Any], recent: Sequence[str]) -> RenderableType:
    events = report["events"]
    dropped = f", {count(events['dropped'])} dropped" if events["dropped"] else ""
    lines = [Text(f"events: {count(events['total'])}{dropped}", style="dim")]
    return Group(*lines, *(Text(line, no_wrap=True, overflow="ellipsis") for line in recent))
