"""report.html: the tables and plots of one run."""

from pathlib import Path
from typing import Any

from sgl_indexcache.loadtest.measure.record import EXPLANATIONS, Record
from sgl_indexcache.loadtest.report.document import load_report
from sgl_indexcache.loadtest.report.page import Section, figure, render
from sgl_indexcache.loadtest.units import show_seconds

MAX_POINTS = 4000
"""Requests in the scatter plot; of more, every k-th is drawn."""
_CLASSES = ("all", "cold", "warm", "repeat")
_COLORS = {"cold": "#0969da", "warm": "#1a7f37", "repeat": "#9a6700", "all": "#57606a", "failed": "#cf222e"}
_FIGURES = (
    ("ttft", "TTFT"), ("ttft_intended", "TTFT from intended"), ("tpot", "TPOT"), ("itl", "gap"), ("e2e", "end to end"),
)  # fmt: skip
_MAX_SERIES = 24
# Drawn first; the rest of the server's series follow in alphabetical order.
_FIRST = (
    "indexcache.work", "indexcache.", "sgl_indexcache", "sglang:cache_hit_rate", "sglang:num_running_reqs",
    "sglang:num_queue_reqs", "sglang:token_usage", "sglang:gen_throughput",
)  # fmt: skip


def write_html(report: Path, out: Path) -> None:
    """Read a report and write its page.

    Raises:
        ReportError: the report cannot be read, or plotly is missing.
    """
    document, records = load_report(report)
    text = page_of(document, records)
    scratch = out.with_name(out.name + ".part")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(out)


def page_of(document: dict[str, Any], records: list[Record]) -> str:
    """The HTML of a report."""
    run, target = document["run"], document["target"]
    sections = [_overview(document)]
    if len(document["stages"]) > 1:
        sections.append(_sweep(document["stages"]))
    sections += [_stage(stage) for stage in document["stages"]]
    sections += [_requests(records), _timeline(document["timeline"]), _server(document["server"])]
    name = run["workload_name"] or run["trace"]
    good = document["status"] == "ok" and not document["violated"]
    status = "; ".join([f"status: {document['status']}", *(f"violated: {text}" for text in document["violated"])])
    return render(f"Load test: {name} on {target['model']}", status, good, sections)


def _overview(document: dict[str, Any]) -> Section:
    run, target, machine = document["run"], document["target"], document["machine"]
    rows = [
        ("created", document["created"]),
        ("target", f"{target['url']}, {target['api']} API, model {target['model']}"),
        ("workload", f"{run['workload_name'] or run['trace']}, seed {run['seed']}, salt {run['salt_mode']}"),
        ("planned token counts", target["token_counts"]),
        ("client", _client(machine)),
        ("versions", ", ".join(f"{name} {text}" for name, text in document["versions"].items())),
    ]
    info = document["server"]["info"]
    rows += [(f"server {name}", str(value)) for name, value in info.items() if not isinstance(value, dict)]
    rows += [(f"server indexcache {name}", str(value)) for name, value in info.get("indexcache", {}).items()]
    return Section("Run", columns=("", ""), rows=rows)


def _client(machine: dict[str, Any]) -> str:
    # Older reports name an architecture and CPUs instead.
    processor, cores = machine.get("processor", machine.get("architecture")), machine.get("cores", machine.get("cpus"))
    return f"{machine['system']}, {processor}, {cores} cores"


def _stage(stage: dict[str, Any]) -> Section:
    summary = stage["summary"]
    columns = ["group", "requests", "hit rate"]
    columns += [f"{name} {column}" for _, name in _FIGURES for column in ("p50", "p90", "p95", "p99", "max")]
    rows = []
    for name, group in summary["groups"].items():
        hits = "–" if group["hit_rate"] is None else f"{group['hit_rate']:.1%}"
        cells = [
            show_seconds(group["latency"].get(metric, {}).get(column))
            for metric, _ in _FIGURES
            for column in ("p50", "p90", "p95", "p99", "max")
        ]
        rows.append([name, str(group["requests"]), hits, *cells])
    figures = [
        figure(f"{title}: share of requests at most", _cdfs(summary, metric), "seconds", "share", log_x=True)
        for metric, title in _FIGURES
    ]
    return Section(f"Stage: {stage['label']}", _sentence(summary), columns, rows, figures)


def _sentence(summary: dict[str, Any]) -> str:
    parts = [
        f"{summary['succeeded']} requests succeeded, {summary['failed']} failed, {summary['retries']} were retries, "
        f"in {summary['duration']:.1f} s",
        f"{summary['requests_per_s']:.2f} requests, {summary['input_tokens_per_s']:,.0f} input and "
        f"{summary['output_tokens_per_s']:,.1f} output tokens per second",
    ]
    if summary["cached_tokens_per_s"] is not None:
        parts.append(f"{summary['cached_tokens_per_s']:,.0f} cached tokens per second")
    if summary["slo"] is not None:
        parts.append(f"goodput {summary['slo']['goodput']:.1%} ({summary['slo']['requests_per_s']:.2f} requests/s)")
    parts += [f"{kind}: {count} ({EXPLANATIONS.get(kind, '')})" for kind, count in summary["failures"].items()]
    return ". ".join(parts) + "."


def _cdfs(summary: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    traces = []
    for name in _CLASSES:
        points = summary["groups"].get(name, {}).get("cdf", {}).get(metric)
        if points:
            x, y = [max(value, 1e-6) for value, _ in points], [share for _, share in points]
            traces.append(_line(name, x, y, _COLORS[name]))
    return traces


def _sweep(stages: list[dict[str, Any]]) -> Section:
    levels = [stage["level"] for stage in stages]
    latency = []
    for metric, column in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("tpot", "p99")):
        values = [
            stage["summary"]["groups"].get("all", {}).get("latency", {}).get(metric, {}).get(column) for stage in stages
        ]
        latency.append(_line(f"{metric} {column}", levels, values))
    rates = [
        _line(name, levels, [stage["summary"][key] for stage in stages])
        for name, key in (("output tokens/s", "output_tokens_per_s"), ("requests/s", "requests_per_s"))
    ]
    unit = "sessions at a time" if stages[0]["kind"] == "closed" else "sessions per second"
    figures = [
        figure("Latency by load", latency, unit, "seconds", log_y=True),
        figure("Throughput by load", rates, unit, "per second"),
    ]
    return Section("Sweep", figures=figures)


def _requests(records: list[Record]) -> Section:
    step = max(1, len(records) // MAX_POINTS)
    sample = records[::step]
    traces = []
    for name in ("cold", "warm", "repeat"):
        points = [record for record in sample if record.planned == name and record.ttft is not None and record.ok]
        if points:
            x, y = [record.sent for record in points], [record.first - record.sent for record in points if record.first]
            traces.append({**_line(name, x, y, _COLORS[name]), "mode": "markers", "marker": {"size": 5}})
    failed = [record for record in sample if not record.ok]
    if failed:
        x, y = [record.sent for record in failed], [max(record.e2e, 1e-6) for record in failed]
        marker = {"size": 7, "symbol": "x"}
        traces.append(
            {**_line("failed (time to failure)", x, y, _COLORS["failed"]), "mode": "markers", "marker": marker}
        )
    text = "" if step == 1 else f"Every {step}th of {len(records)} requests is drawn."
    return Section("Requests", text, figures=[figure("TTFT by send time", traces, "seconds", "seconds", log_y=True)])


def _timeline(timeline: dict[str, Any]) -> Section:
    width = timeline["width"]
    times = [index * width for index in range(len(timeline["sent"]))]
    per_second = [
        _line(name, times, [value / width for value in timeline[key]])
        for name, key in (("sent/s", "sent"), ("done/s", "done"), ("failed/s", "failed"))
    ]
    load = [_line("in flight", times, timeline["in_flight"])]
    tokens = [_line("output tokens/s", times, [value / width for value in timeline["tokens"]])]
    figures = [
        figure("Requests per second", per_second, "seconds", "per second"),
        figure("Requests in flight", load, "seconds", "requests"),
        figure("Output tokens per second", tokens, "seconds", "tokens per second"),
    ]
    return Section("Time line", figures=figures)


def _server(server: dict[str, Any]) -> Section:
    names = sorted(server["series"], key=lambda name: (not name.startswith(_FIRST), name))[:_MAX_SERIES]
    figures = []
    for name in names:
        times, values = zip(*server["series"][name], strict=True)
        figures.append(figure(name, [_line(name, times, values)], "seconds", ""))
    missing = ", ".join(server["missing"])
    text = f"The server does not offer {missing}. " if missing else ""
    rows = [(name, f"{server['change'][name]:,.6g}") for name in names]
    rows += [(f"{name} (constant)", f"{value:,.6g}") for name, value in sorted(server["constant"].items())]
    return Section("Server, on the same time axis", text, ("series", "change during the run"), rows, figures)


def _line(name: str, x: Any, y: Any, color: str | None = None) -> dict[str, Any]:
    trace: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y)}
    if color is not None:
        trace["line"] = {"color": color}
        trace["marker"] = {"color": color}
    return trace
