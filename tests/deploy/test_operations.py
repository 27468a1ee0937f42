"""docs/operations.md names every setting, metric and alert there is, and none that there is not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from sgl_indexcache.settings import Settings
from sgl_indexcache.telemetry import names


@pytest.fixture(scope="module")
def text(deploy: Path) -> str:
    return (deploy.parent / "docs" / "operations.md").read_text()


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def table(part: str) -> dict[str, list[str]]:
    """A table's cells after the first, by the first."""
    rows = [line.strip("|").split(" | ") for line in part.split("\n") if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


def leaves(model: type[BaseModel], parent: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{parent}{name}.")
        else:
            found[parent + name] = field.default
    return found


def test_every_setting_with_its_default(text: str) -> None:
    written = {key: cells[0].strip("`") for key, cells in table(section(text, "Settings")).items()}
    real = {key: value if isinstance(value, str) else json.dumps(value) for key, value in leaves(Settings).items()}
    assert written == real


def test_every_metric_with_its_labels(text: str) -> None:
    written = {name: re.findall(r"`(\w+)`", cells[0]) for name, cells in table(section(text, "Metrics")).items()}
    assert written == {metric.scraped: [label.name for label in metric.labels] for metric in names.CATALOGUE}


def test_every_alert(text: str, deploy: Path) -> None:
    rules = yaml.safe_load((deploy / "monitoring" / "rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert set(re.findall(r"^### (\w+)$", section(text, "Alerts"), re.MULTILINE)) == alerts


def test_every_overlay(text: str, deploy: Path) -> None:
    folders = {path.name for path in (deploy / "k8s" / "overlays").iterdir()}
    assert set(table(section(text, "Start"))) == folders


def test_paths_and_settings_that_it_mentions_exist(text: str, deploy: Path) -> None:
    for path in re.findall(r"(?<!tests/)\bdeploy/[\w./-]+\w", text):
        assert (deploy.parent / path).exists() or path == "deploy/compose/grafana-password", path
    keys = leaves(Settings)
    for key in re.findall(r"`((?:scoring|store|kernels|telemetry)\.\w+)", text):
        assert key in keys, key


def test_the_size_of_a_snapshot(text: str) -> None:
    from sgl_indexcache.store.page_records import page_bytes
    from sgl_indexcache.store.pool import slot_bytes

    size = slot_bytes(16, 64, 2048)
    assert "about 8 MiB" in text
    assert round(size / 2**20) == 8
    assert "holds 31 prefixes" in text
    assert (256 << 20) // size == 31
    assert f"`index_head_dim` + {page_bytes(0)} bytes" in text
