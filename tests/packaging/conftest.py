"""The wheel and its installation, made once; and a way to run Python in a place of the test's choice."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What goes into the wheel, and what must stay out of it.
SOURCES = ("sgl_indexcache", "kernels", "loadtest", "tests/packaging", "deploy", "docs", "scripts")
FILES = ("pyproject.toml", "setup.py", "LICENSE", "README.md")

RunPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Run `python *arguments` in a folder with only `path` on PYTHONPATH; any exit code but 0 fails."""

    def run(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from: setuptools leaves build folders behind, and would reuse stale ones."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, run_python: RunPython) -> Callable[[Path], Path]:
    """The wheel of a source tree."""

    def build(source: Path) -> Path:
        out = tmp_path_factory.mktemp("wheel")
        options = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out))
        run_python("-m", "pip", "wheel", *options, str(source), cwd=source)
        (wheel,) = out.glob("*.whl")
        return wheel

    return build


@pytest.fixture(scope="session")
def wheel(source: Path, build: Callable[[Path], Path]) -> Path:
    return build(source)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path, run_python: RunPython) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = ("-q", "--no-deps", "--no-index", "--target", str(target))
    run_python("-m", "pip", "install", *options, str(wheel), cwd=target)
    return target
