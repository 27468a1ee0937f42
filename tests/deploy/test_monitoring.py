"""Rules and dashboard: they parse, name metrics of the catalogue, and alert when they should."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser
import pytest
import yaml

from sgl_indexcache.telemetry import names


@pytest.fixture(scope="module")
def generate(deploy: Path) -> ModuleType:
    """deploy/monitoring/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", deploy / "monitoring" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date(deploy: Path) -> None:
    command = [sys.executable, deploy / "monitoring" / "generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_expression_parses(generate: ModuleType) -> None:
    assert len(generate.expressions()) > 50
    for place, expression in generate.expressions().items():
        try:
            promql_parser.parse(expression)
        except ValueError as error:
            pytest.fail(f"{place}: {error}")
    with pytest.raises(ValueError, match=r"unclosed|unexpected|invalid"):
        promql_parser.parse("sum(rate(a[5m])")


def test_our_metrics_are_those_of_the_catalogue(generate: ModuleType) -> None:
    """All that is named exists, and all that exists is shown."""
    ours = {name for name in generate.metrics() if name.startswith(names.PREFIX)}
    assert ours == {metric.scraped for metric in names.CATALOGUE}


def test_labels_are_those_of_the_catalogue(generate: ModuleType) -> None:
    """A misspelt label selects nothing without a word."""
    labels: dict[str, dict[str, tuple[str, ...]]] = {
        metric.scraped: {label.name: label.values for label in metric.labels} for metric in names.CATALOGUE
    }
    seen = 0

    def check(node: Any) -> None:
        nonlocal seen
        if isinstance(node, promql_parser.VectorSelector) and node.name in labels:
            for matcher in node.matchers.matchers:
                if matcher.name in ("job", "instance"):
                    continue
                assert matcher.value in labels[node.name][matcher.name], (node.name, matcher)
                seen += 1
        for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
            inner = getattr(node, name, None)
            for child in inner if isinstance(inner, list) else [inner]:
                if child is not None and not isinstance(child, str | float):
                    check(child)

    for expression in generate.expressions().values():
        check(promql_parser.parse(expression))
    assert seen >= 5


def test_panels_do_not_overlap(deploy: Path) -> None:
    dashboard = json.loads((deploy / "monitoring" / "dashboard.json").read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    identities = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identities)) == len(identities)


def test_alerts_say_what_to_do(deploy: Path) -> None:
    rules = yaml.safe_load((deploy / "monitoring" / "rules.yaml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert {alert["labels"]["severity"] for alert in alerts} == {"critical", "warning", "info"}
    for alert in alerts:
        assert alert["annotations"].keys() == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian's package prometheus)")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "monitoring/rules.yaml"),
        ("test", "rules", "monitoring/rules_test.yaml"),
    ],
    ids=["rules", "alerts"],
)
def test_promtool_agrees(deploy: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=deploy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_scraped_as_plain_text(deploy: Path) -> None:
    """In another format prometheus_client spells `sglang:` differently: the format is part of the names."""
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.exposition import choose_encoder

    config = yaml.safe_load((deploy / "compose" / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["/etc/prometheus/rules.yaml"]
    (job,) = config["scrape_configs"]
    monitor = yaml.safe_load((deploy / "monitoring" / "pod-monitor.yaml").read_text())
    assert job["scrape_protocols"] == monitor["spec"]["scrapeProtocols"] == ["PrometheusText0.0.4"]

    registry = CollectorRegistry()
    Gauge("sglang:token_usage", "", registry=registry)
    plain, _ = choose_encoder("text/plain;version=0.0.4;q=0.2,*/*;q=0.1")
    open_metrics, _ = choose_encoder("application/openmetrics-text;version=1.0.0")
    assert b"\nsglang:token_usage 0.0" in plain(registry)
    assert b"\nsglang:token_usage 0.0" not in open_metrics(registry)  # else the setting is no longer needed


def test_every_alert_has_a_test(deploy: Path) -> None:
    rules = yaml.safe_load((deploy / "monitoring" / "rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((deploy / "monitoring" / "rules_test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == alerts
