"""Rendered manifests, once a session."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
Manifest = dict[str, Any]


def tool(name: str) -> str:
    """A command of this environment, or one that the machine has."""
    here = Path(sys.executable).parent / name
    found = str(here) if here.exists() else shutil.which(name)
    assert found, f"{name} is missing: make install"
    return found


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def render() -> Callable[[str], list[Manifest]]:
    """The objects of a folder below deploy/, as kubectl's own kustomize renders them."""

    @cache
    def rendered(folder: str) -> list[Manifest]:
        command = [tool("kubectl"), "kustomize", str(DEPLOY / folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return rendered
