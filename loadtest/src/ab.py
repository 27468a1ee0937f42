"""Two servers on one machine, in turn: the same bytes to both, rounds in alternating order, ratios with spread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from sgl_indexcache.live.server import Server
from sgl_indexcache.loadtest.errors import OptionError, ReportError
from sgl_indexcache.loadtest.execute import FAILED, INTERRUPTED, OK, run_and_report
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.report.compare import Row, compare
from sgl_indexcache.loadtest.report.comparison import comparison, comparison_page, print_comparison
from sgl_indexcache.loadtest.report.document import load_report
from sgl_indexcache.loadtest.report.page import Section

SCHEMA = "sgl_indexcache.loadtest.ab/1"
MAX_ROUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two servers: its name in the report, what follows `serve`, and its environment."""

    name: str
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


Measured = tuple[dict[str, Any], list[Record]]
"""A run's report and its records."""

Start = Callable[[Side, Path, Callable[[float], None]], Any]
"""Starts a side's server: a context manager whose value has `url`. Arguments: side, log file, progress."""


def start_server(side: Side, log: Path, waiting: Callable[[float], None]) -> Server:
    """A real server in a process of its own."""
    return Server(side.arguments, log, side.environment, timeout=1800.0, waiting=waiting)


def sides(model: Path, pattern: str, baseline: str, flags: list[str]) -> tuple[Side, Side]:
    """A, the standard server, and B, with the pattern.

    baseline  full: the plugin with every layer Full; off: without the plugin; or a pattern

    Raises:
        UserError: the model's layers cannot be counted, or a pattern does not fit it.
    """
    from sgl_indexcache.pattern import layer_count, read_config, trace

    config = read_config(model)
    trace(pattern, config)
    common = ["--model-path", str(model)]
    with_pattern = Side(name=f"pattern {pattern}", arguments=[*common, "--pattern", pattern, *flags])
    if baseline == "off":
        environment = {"SGL_INDEXCACHE_ENABLED": "false"}
        return Side(name="plugin off", arguments=[*common, *flags], environment=environment), with_pattern
    letters = "F" * layer_count(config) if baseline == "full" else str(trace(baseline, config).pattern)
    name = "every layer Full" if baseline == "full" else f"pattern {baseline}"
    return Side(name=name, arguments=[*common, "--pattern", letters, *flags]), with_pattern


def run_ab(
    pair: tuple[Side, Side], options: RunOptions, rounds: int, console: Console, start: Start = start_server,
    tolerance: float = 0.05,
) -> dict[str, Any]:  # fmt: skip
    """Run `options` against both sides `rounds` times; write ab.json, ab.html and every run below `options.out`.

    The address in `options` is replaced by each server's. Returns the document of ab.json.

    Raises:
        UserError: a server does not start, or the options cannot be run.
    """
    if not 1 <= rounds <= MAX_ROUNDS:
        raise OptionError(f"--rounds {rounds}: give 1 to {MAX_ROUNDS}")
    results: dict[str, list[Measured]] = {"a": [], "b": []}
    for number in range(rounds):
        # ABBA: what drifts with time (heat, other users of the machine) falls on both.
        for key in ("ab", "ba")[number % 2]:
            side = pair[0] if key == "a" else pair[1]
            folder = options.out / f"round-{number + 1}-{key}"
            if not options.quiet:
                console.print(f"round {number + 1} of {rounds}, {key.upper()}: {side.name}", markup=False)
            with _started(side, folder / "server.log", console, start) as url:
                measured = measure(url, folder, options, console)
            results[key].append(measured)
            if measured[0]["status"] == "interrupted":
                raise KeyboardInterrupt
    return conclude(pair, results, options, console, tolerance)


def conclude(
    pair: tuple[Side, Side],
    results: dict[str, list[Measured]],
    options: RunOptions,
    console: Console,
    tolerance: float = 0.05,
) -> dict[str, Any]:
    """Compare the runs of side "a" with as many of side "b": print ratios, write ab.json and ab.html."""
    document, rows = comparison(_pooled(results["a"]), _pooled(results["b"]), tolerance)
    pairs = zip(results["a"], results["b"], strict=True)
    per_round = [compare(a[1], b[1], tolerance) for a, b in pairs]
    spread = _spread(rows, per_round)
    document |= {"schema": SCHEMA, "rounds": len(per_round), "names": [pair[0].name, pair[1].name], "spread": spread}
    document["server_change"] = {key: [run[0]["server"]["change"] for run in runs] for key, runs in results.items()}
    (options.out / "ab.json").write_bytes(msgspec.json.encode(document) + b"\n")
    console.print(f"A: {pair[0].name}; B: {pair[1].name}", markup=False)
    print_comparison(document, rows, console)
    for item in spread:
        if item["group"] in ("cold", "warm", "repeat"):
            ratios = ", ".join(f"{ratio:.2f}" for ratio in item["rounds"])
            console.print(f"{item['metric']} {item['group']} by round: {ratios}", markup=False)
    _write_page(document, rows, spread, options.out / "ab.html", console)
    console.print(f"report: {options.out}", markup=False, soft_wrap=True)
    return document


def exit_code(document: dict[str, Any]) -> int:
    """0 when both sides ran without a failure, whichever is faster."""
    statuses = {document["a"]["status"], document["b"]["status"]}
    return OK if statuses == {"ok"} else INTERRUPTED if "interrupted" in statuses else FAILED


@contextmanager
def _started(side: Side, log: Path, console: Console, start: Start) -> Iterator[str]:
    """A side's server while it runs; the value is its address."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with console.status(f"starting {side.name}") as status:

        def tell(seconds: float) -> None:
            status.update(f"starting {side.name}, {seconds:.0f} s")

        server = start(side, log, tell)
        running = server.__enter__()
    try:
        yield running.url
    finally:
        server.__exit__(None, None, None)


def measure(url: str, folder: Path, options: RunOptions, console: Console) -> Measured:
    """Run `options` against the server at `url`, after a warm-up; everything is written into `folder`."""
    options = replace(options, url=url)
    # One session of other bytes, so that nobody pays for first-use set-up.
    warming = replace(
        options, out=folder / "warm-up", sessions=1, requests=2, duration=None, salt="warm-up", conditions=[],
        html=False, quiet=True, levels=options.levels[:1], scrape_interval=0.0,
    )  # fmt: skip
    if options.workload is not None:
        run_and_report(warming, console)
    # The caller's salt, or one fixed text: both servers get the same bytes and start with empty caches.
    salt = options.salt if options.salt is not None else "ab"
    document = run_and_report(replace(options, out=folder, salt=salt, quiet=True), console)
    return document, load_report(folder)[1]


def _pooled(runs: list[Measured]) -> Measured:
    """All rounds of a side as one run; sessions of different rounds stay apart."""
    records = []
    for number, (_, own) in enumerate(runs):
        for record in own:
            record = msgspec.structs.replace(record, session=f"{number}/{record.session}")
            records.append(record)
    statuses = [document["status"] for document, _ in runs]
    status = next((status for status in statuses if status != "ok"), "ok")
    stages = [stage for document, _ in runs for stage in document["stages"]]
    return {**runs[0][0], "status": status, "stages": stages}, records


def _spread(pooled: list[Row], per_round: list[list[Row]]) -> list[dict[str, Any]]:
    """For every median: the ratio of each round, their least and greatest."""
    spread = []
    for row in pooled:
        if row.statistic != "p50":
            continue
        key = (row.group, row.metric, row.statistic)
        ratios = [r.ratio for rows in per_round for r in rows if (r.group, r.metric, r.statistic) == key]
        if ratios:
            bounds = {"least": min(ratios), "greatest": max(ratios)}
            spread.append({"group": row.group, "metric": row.metric, "rounds": ratios, **bounds})
    return spread


def _write_page(
    document: dict[str, Any], rows: list[Row], spread: list[dict[str, Any]], out: Path, console: Console
) -> None:
    names = document["names"]
    columns = ("group", "figure", *(f"round {number + 1}" for number in range(document["rounds"])), "least", "greatest")
    table = [
        [item["group"], f"{item['metric']} p50", *(f"{ratio:.2f}" for ratio in item["rounds"]),
         f"{item['least']:.2f}", f"{item['greatest']:.2f}"]
        for item in spread
        if len(item["rounds"]) == document["rounds"]
    ]  # fmt: skip
    text = f"A: {names[0]}. B: {names[1]}. Ratios below 1: B is faster."
    try:
        page = comparison_page(document, rows, [Section("Ratios by round", text, columns, table)])
    except ReportError as error:
        console.print(f"no HTML report: {error}", markup=False, soft_wrap=True)
        return
    out.write_text(page, encoding="utf-8")
