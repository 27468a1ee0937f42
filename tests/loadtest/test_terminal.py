"""The load tester on a terminal: what a person sees while a run goes on."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.top.terminal import Terminal


def test_the_dashboard_shows_the_run_and_then_its_report(serve: Callable[..., Any], mocks: Any, tmp_path: Path) -> None:
    looking = True
    # From the seventh on, requests wait until the dashboard was seen.
    server = serve(lambda number: mocks.Plan(held=lambda: looking and number >= 6))
    command = [sys.executable, "-m", "sgl_indexcache.cli", "loadtest", "run", "demo", "--url", server.url]
    command += [
        "--api",
        "generate",
        "--sessions",
        "4",
        "--concurrency",
        "2",
        "--no-html",
        "--out",
        str(tmp_path / "out"),
    ]
    terminal = Terminal(command, 140, 40)
    text = terminal.wait("in flight 2", "TTFT p50", "from intended p99", "warm")
    assert "failed 0" in text
    looking = False
    terminal.wait("status: ok")
    assert "in flight" not in terminal.text(), "the dashboard makes room for the report"
    assert terminal.finish() == 0
