"""What editors, linters and the CI are told agrees."""

import configparser
import os
import tomllib
from pathlib import Path

import yaml


def test_editors_and_linters_break_lines_at_the_same_column(root: Path) -> None:
    editors = configparser.ConfigParser()
    editors.read_string("[top]\n" + (root / ".editorconfig").read_text())
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert int(editors["*.py"]["max_line_length"]) == project["tool"]["ruff"]["line-length"] == 120


def test_the_workflow_runs_what_a_developer_runs(root: Path) -> None:
    workflow = yaml.safe_load((root / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(root / ".ci" / "run", os.X_OK)
    assert workflow["permissions"] == {"contents": "read"}


def test_a_check_is_a_check_of_the_docs_too(root: Path) -> None:
    (line,) = [line for line in (root / "Makefile").read_text().splitlines() if line.startswith("check:")]
    assert "check-docs" in line.split("##")[0].split()
