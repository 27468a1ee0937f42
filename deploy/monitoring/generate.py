#!/usr/bin/env python3
"""Write what is made from other files here: the Grafana dashboard and the PrometheusRule of rules.yaml.

    python deploy/monitoring/generate.py [--check | --metrics]

--check writes nothing and exits with 1 when a file is not what it would write; --metrics lists the metrics that the
rules and the dashboard name.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SELECTED = 'job=~"$job", instance=~"$instance"'


def target(expression: str, legend: str) -> dict[str, Any]:
    """A query; `{}` and `{label="x"}` in it also get the dashboard's job and instance."""
    selected = expression.replace("{}", "{" + SELECTED + "}").replace("{!", "{" + SELECTED + ", ")
    return {"datasource": {"uid": "$datasource"}, "expr": selected, "legendFormat": legend}


def panel(title: str, kind: str, unit: str, *targets: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """A panel without its place. unit: Grafana's name of it."""
    made: dict[str, Any] = {
        "title": title,
        "type": kind,
        "datasource": {"uid": "$datasource"},
        "targets": [{**one, "refId": chr(ord("A") + number)} for number, one in enumerate(targets)],
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
    }
    if kind == "timeseries":
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
    return made


def quantiles(metric: str) -> list[dict[str, Any]]:
    """p50, p95 and p99 of one of SGLang's histograms."""
    return [
        target(f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket{{}}[5m])))", f"p{round(q * 100)}")
        for q in (0.5, 0.95, 0.99)
    ]


def rate(metric: str, by: str, legend: str) -> dict[str, Any]:
    """Sum of a counter's rate, by label."""
    return target(f"sum by ({by}) (rate({metric}{{}}[5m]))", legend)


KINDS = "layers, result, reason"
BY_KIND = "{{layers}} {{result}}: {{reason}}"

ROWS: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "Server",
        [
            panel(
                "Plugin active",
                "stat",
                "bool_yes_no",
                target("min by (instance) (sgl_indexcache_active{})", "{{instance}}"),
            ),
            panel(
                "Pattern in force",
                "stat",
                "none",
                target("max by (pattern) (sgl_indexcache_pattern_info{} == 1)", "{{pattern}}"),
            ),
            panel("Version", "stat", "none", target("count by (version) (sgl_indexcache_build_info{})", "{{version}}")),
            panel("Layers", "stat", "none", target("max by (layers) (sgl_indexcache_layers{})", "{{layers}}")),
            panel(
                "Requests",
                "timeseries",
                "short",
                target("sum(sglang:num_running_reqs{})", "running"),
                target("sum(sglang:num_queue_reqs{})", "waiting"),
            ),
            panel(
                "KV in use",
                "timeseries",
                "percentunit",
                target("max by (instance) (sglang:token_usage{})", "{{instance}}"),
                min=0,
                max=1,
            ),
            panel(
                "Tokens a second",
                "timeseries",
                "short",
                target("sum(rate(sglang:prompt_tokens_total{}[5m]))", "prompt"),
                target("sum(rate(sglang:cached_tokens_total{}[5m]))", "of these cached"),
                target("sum(rate(sglang:generation_tokens_total{}[5m]))", "generated"),
            ),
            panel(
                "Kernels in use",
                "table",
                "none",
                {
                    **target("max by (phase, work, kernel) (sgl_indexcache_kernel_info{} == 1)", ""),
                    "format": "table",
                    "instant": True,
                },
            ),
        ],
    ),
    (
        "Latency",
        [
            panel("Time to first token", "timeseries", "s", *quantiles("sglang:time_to_first_token_seconds")),
            panel("Between tokens", "timeseries", "s", *quantiles("sglang:inter_token_latency_seconds")),
            panel("Whole request", "timeseries", "s", *quantiles("sglang:e2e_request_latency_seconds")),
            panel(
                "First tokens later than 2 s",
                "timeseries",
                "percentunit",
                target('sgl_indexcache:ttft_slow:ratio_rate5m{job=~"$job"}', "5 min"),
                target('sgl_indexcache:ttft_slow:ratio_rate1h{job=~"$job"}', "1 h"),
                target('sgl_indexcache:ttft_slow:ratio_rate6h{job=~"$job"}', "6 h"),
                min=0,
                max=1,
            ),
        ],
    ),
    (
        "Indexer",
        [
            panel(
                "Keys that no indexer scored",
                "timeseries",
                "percentunit",
                target("sgl_indexcache:keys_skipped:ratio_rate5m{}", "{{instance}}"),
                min=0,
                max=1,
            ),
            panel("Keys a second", "timeseries", "short", rate("sgl_indexcache_indexer_keys_total", KINDS, BY_KIND)),
            panel("Rows a second", "timeseries", "short", rate("sgl_indexcache_indexer_rows_total", KINDS, BY_KIND)),
            panel(
                "Selections reused a second",
                "timeseries",
                "short",
                rate("sgl_indexcache_selections_reused_total", "source", "{{source}}"),
                target("sum(rate(sgl_indexcache_summaries_scored_total{}[5m]))", "page summaries scored"),
            ),
        ],
    ),
    (
        "Index store",
        [
            panel(
                "Snapshot slots",
                "timeseries",
                "short",
                target("sum by (state) (sgl_indexcache_store_snapshots{})", "{{state}}"),
            ),
            panel(
                "Lookups that hit",
                "timeseries",
                "percentunit",
                target(
                    'sum(rate(sgl_indexcache_snapshot_lookups_total{!result="hit"}[5m]))'
                    " / sum(rate(sgl_indexcache_snapshot_lookups_total{}[5m]))",
                    "hit",
                ),
                min=0,
                max=1,
            ),
            panel(
                "Kept, given up and lost a second",
                "timeseries",
                "short",
                target("sum(rate(sgl_indexcache_snapshots_kept_total{}[5m]))", "kept"),
                rate("sgl_indexcache_store_evictions_total", "reason", "given up: {{reason}}"),
                rate("sgl_indexcache_store_lost_total", "reason", "lost: {{reason}}"),
            ),
            panel(
                "Memory and pages",
                "timeseries",
                "bytes",
                target("sum by (part) (sgl_indexcache_store_bytes{})", "{{part}}"),
            ),
            panel(
                "Pages with a valid record",
                "timeseries",
                "percentunit",
                target(
                    "sum by (instance) (sgl_indexcache_store_pages_valid{})"
                    " / sum by (instance) (sgl_indexcache_store_pages{} > 0)",
                    "{{instance}}",
                ),
                min=0,
                max=1,
            ),
        ],
    ),
    (
        "Two-level scoring",
        [
            panel(
                "Recall by layer",
                "timeseries",
                "percentunit",
                target("sgl_indexcache:recall:ratio_rate15m{}", "layer {{layer}}"),
                target("max(sgl_indexcache_recall_floor{} > 0)", "floor"),
                max=1,
            ),
            panel(
                "Rows sampled a second",
                "timeseries",
                "short",
                rate("sgl_indexcache_recall_sampled_rows_total", "layer", "layer {{layer}}"),
            ),
            panel(
                "Turns back to exact scoring a second",
                "timeseries",
                "short",
                rate("sgl_indexcache_fallbacks_total", "reason", "{{reason}}"),
            ),
        ],
    ),
    (
        "Events",
        [
            panel("Events a second", "timeseries", "short", rate("sgl_indexcache_events_total", "kind", "{{kind}}")),
            panel(
                "Dropped, and replays",
                "timeseries",
                "short",
                target("sum(rate(sgl_indexcache_events_dropped_total{}[5m]))", "dropped"),
                rate("sgl_indexcache_replay_requests_total", "result", "replay {{result}}"),
            ),
        ],
    ),
]


def placed() -> list[dict[str, Any]]:
    """Every panel with id and place: rows of 24 units, four panels side by side at most."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        for start in range(0, len(row), 4):
            line = row[start : start + 4]
            height = 4 if all(one["type"] == "stat" for one in line) else 8
            width = 24 // len(line)
            for number, one in enumerate(line):
                panels.append({**one, "gridPos": {"x": number * width, "y": y, "w": width, "h": height}})
            y += height
    return [{"id": number, **one} for number, one in enumerate(panels, 1)]


def variable(name: str, query: str) -> dict[str, Any]:
    """A choice among a label's values."""
    return {
        "name": name,
        "type": "query",
        "datasource": {"uid": "$datasource"},
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON model."""
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    job = variable("job", "label_values(sgl_indexcache_active, job)")
    instance = variable("instance", 'label_values(sgl_indexcache_active{job=~"$job"}, instance)')
    return {
        "uid": "sgl-indexcache",
        "title": "SGLang IndexCache",
        "tags": ["sglang", "sgl-indexcache"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, job, instance]},
        "panels": placed(),
    }


def prometheus_rule() -> str:
    """The object of the Prometheus operator, with the groups of rules.yaml."""
    rules = yaml.safe_load((HERE / "rules.yaml").read_text())
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sgl-indexcache"},
        "spec": rules,
    }
    head = "# Made from rules.yaml by generate.py.\n"
    return head + yaml.safe_dump(document, sort_keys=False, width=120)


def expressions() -> dict[str, str]:
    """Every query of the rules and of the dashboard, with the dashboard's variables filled in, by where it stands."""
    found = {}
    for group in yaml.safe_load((HERE / "rules.yaml").read_text())["groups"]:
        found |= {rule.get("alert") or rule["record"]: rule["expr"] for rule in group["rules"]}
    for one in placed():
        for query in one.get("targets", ()):
            text = query["expr"].replace("$job", ".*").replace("$instance", ".*")
            found[f"{one['title']} {query['refId']}"] = text
    return found


def metrics() -> set[str]:
    """The scraped metrics in all of them; recorded ones are left out."""
    import promql_parser

    recorded = {name for name in expressions() if name.startswith("sgl_indexcache:")}
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
            inner = getattr(node, name, None)
            for child in inner if isinstance(inner, list) else [inner]:
                if child is not None and not isinstance(child, str | float):
                    walk(child)

    for expression in expressions().values():
        walk(promql_parser.parse(expression))
    return found - recorded


def main() -> None:
    if sys.argv[1:] == ["--metrics"]:
        print(*sorted(metrics()), sep="\n")
        return
    files = {
        HERE / "dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
        HERE / "prometheus-rule.yaml": prometheus_rule(),
    }
    if sys.argv[1:] == ["--check"]:
        stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
        sys.exit(f"error: {', '.join(stale)}: run deploy/monitoring/generate.py" if stale else 0)
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
