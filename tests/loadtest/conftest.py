"""Fixtures: a scripted server, and a run of the load tester against it."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sgl_indexcache.loadtest.drive.shape import Level
from sgl_indexcache.loadtest.execute import run_and_report
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.report.document import load_report
from sgl_indexcache.loadtest.workload.spec import Workload, load_workload


def _module(name: str) -> ModuleType:
    # By file: tests are not a package, and the mock also runs as a program.
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def mocks() -> ModuleType:
    """The module mock_server."""
    return _module("mock_server")


@pytest.fixture
def serve(mocks: ModuleType) -> Iterator[Callable[..., Any]]:
    """`serve(plan)` starts a mock in a thread; its `mock` is the log, its `url` the address."""
    started = []

    def start(plan: Callable[[int], Any] | None = None) -> Any:
        thread = mocks.MockThread(mocks.Mock(plan or (lambda number: mocks.Plan())))
        started.append(thread)
        return thread.__enter__()

    yield start
    for thread in started:
        thread.__exit__()


@pytest.fixture
def simulate(mocks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`simulate(plan)` is `serve(plan)` in virtual time; see virtual.py."""
    network = _module("virtual").Network()
    network.install(monkeypatch)

    def add(plan: Callable[[int], Any] | None = None) -> SimpleNamespace:
        mock = mocks.Mock(plan or (lambda number: mocks.Plan()))
        return SimpleNamespace(mock=mock, url=network.add(mock))

    return add


def single(**keys: Any) -> Workload:
    """One-request sessions of 100 prompt and 8 output tokens, with overrides."""
    base: dict[str, Any] = {"context_tokens": 100, "output_tokens": 8, "turns": 1}
    return Workload.model_validate(base | keys)


Ran = tuple[dict[str, Any], list[Record]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """`run(url, workload=..., api=..., ...)` executes and returns (document, records)."""
    count = 0

    def go(url: str, **keys: Any) -> Ran:
        nonlocal count
        count += 1
        keys.setdefault("api", "generate")
        workload = keys.pop("workload", None)
        if isinstance(workload, str):
            workload = load_workload(workload)
        elif workload is None and "trace" not in keys:
            workload = single()
        if (concurrency := keys.pop("concurrency", None)) is not None:
            keys["levels"] = [Level("closed", concurrency, concurrency)]
        keys.setdefault("scrape_interval", 0.0)
        keys.setdefault("out", tmp_path / f"run-{count}")
        options = RunOptions(url=url, workload=workload, html=False, quiet=True, **keys)
        document = run_and_report(options, Console(quiet=True))
        return document, load_report(options.out)[1]

    return go
