"""Every kind of failure is counted by its kind, and none ends in a success."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache.live.server import free_port
from sgl_indexcache.loadtest.errors import TargetError
from sgl_indexcache.loadtest.execute import exit_code
from sgl_indexcache.loadtest.measure.record import EXPLANATIONS

KINDS = {
    "http_400": "http_4xx", "http_429": "http_4xx", "http_500": "http_5xx", "redirect": "http_other",
    "disconnect": "disconnected", "break": "broken", "truncate": "truncated", "no_finish": "truncated",
    "bad_json": "bad_event", "error_event": "error_event", "abort": "aborted", "empty": "empty", "hang": "timeout",
    "hang_midway": "timeout",
}  # fmt: skip


def test_every_fault_of_the_mock_is_expected(mocks: Any) -> None:
    assert set(KINDS) == set(mocks.FAULTS)
    assert set(KINDS.values()) | {"refused", "connect", "cancelled"} == set(EXPLANATIONS)


@pytest.mark.parametrize("api", ["generate", "chat"])
def test_each_fault_is_counted_by_its_kind(
    serve: Callable[..., Any], run: Callable[..., Any], mocks: Any, api: str
) -> None:
    faults = [*(fault for fault in KINDS if not fault.startswith("hang")), None, None]
    server = serve(lambda number: mocks.Plan(fault=faults[number]))
    document, records = run(server.url, api=api, sessions=len(faults), concurrency=1)
    statuses = {fault: record.status for fault, record in zip(faults, records, strict=True)}
    assert statuses == {**{fault: KINDS[fault] for fault in faults[:-2]}, None: "ok"}
    summary = document["stages"][0]["summary"]
    assert summary["failed"] == sum(summary["failures"].values()) == len(faults) - 2
    assert summary["succeeded"] == 2
    assert summary["groups"]["all"]["requests"] == 2, "failed requests are in no latency"
    assert document["status"] == "failed"
    assert exit_code(document) == 1
    assert {record.http for record in records if record.status == "http_4xx"} == {400, 429}


@pytest.mark.parametrize("fault", ["hang", "hang_midway"])
def test_an_answer_without_end_is_a_timeout(
    simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any, fault: str
) -> None:
    server = simulate(lambda number: mocks.Plan(fault=fault if number == 1 else None))
    _, records = run(server.url, sessions=3, concurrency=1, timeout=7.0)
    assert [record.status for record in records] == ["ok", KINDS[fault], "ok"]
    assert records[1].e2e == pytest.approx(7.0, abs=0.1)


def test_retries_are_requests_of_their_own_and_keep_the_intended_time(
    serve: Callable[..., Any], run: Callable[..., Any], mocks: Any
) -> None:
    server = serve(lambda number: mocks.Plan(fault="http_500" if number in (0, 1) else None))
    document, records = run(server.url, sessions=1, concurrency=1, retries=3)
    assert [(record.attempt, record.status) for record in records] == [
        (0, "http_5xx"), (1, "http_5xx"), (2, "ok"),
    ]  # fmt: skip
    assert len({record.intended for record in records}) == 1
    assert records[2].ttft_intended > records[2].ttft + 0.25, "the user waited for the two failures"
    summary = document["stages"][0]["summary"]
    assert (summary["retries"], summary["failed"]) == (2, 2)
    assert exit_code(document) == 1, "a retry that succeeds hides nothing"


def test_a_client_error_is_not_retried(serve: Callable[..., Any], run: Callable[..., Any], mocks: Any) -> None:
    server = serve(lambda number: mocks.Plan(fault="http_400"))
    _, records = run(server.url, sessions=1, retries=3)
    assert len(records) == 1


def test_a_failed_turn_ends_its_session_and_says_so(
    serve: Callable[..., Any], run: Callable[..., Any], mocks: Any
) -> None:
    from sgl_indexcache.loadtest.workload.spec import load_workload

    server = serve(lambda number: mocks.Plan(fault="http_500" if number == 1 else None))
    workload = load_workload("demo", ["subagents.chance=0", "repeat_chance=0"])
    document, records = run(server.url, workload=workload, sessions=1)
    assert len(records) == 2
    assert document["stages"][0]["summary"]["skipped_turns"] == 2


def test_nobody_listens(run: Callable[..., Any]) -> None:
    with pytest.raises(TargetError, match="does not answer"):
        run(f"http://127.0.0.1:{free_port()}", sessions=1)


def test_refused_connections_are_counted(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> None:
    from sgl_indexcache.loadtest.target import Target

    async def name(self: Target) -> str:
        return "m"

    monkeypatch.setattr(Target, "model_name", name)
    document, _ = run(f"http://127.0.0.1:{free_port()}", sessions=3)
    assert document["stages"][0]["summary"]["failures"] == {"refused": 3}
    document, _ = run("http://host.invalid:80", sessions=2)
    assert document["stages"][0]["summary"]["failures"] == {"connect": 2}
    assert document["status"] == "failed"


def command(server: Any, out: Path, *words: str) -> list[str]:
    return [
        sys.executable, "-m", "sgl_indexcache.cli", "loadtest", "run", "demo", "--url", server.url, "--out",
        str(out), "--api", "generate", "--no-html", "--quiet", "--scrape-interval", "0", *words,
    ]  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def is_pending(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    """Whether a process has not taken a signal yet; another of the same kind would be lost in it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_reports_what_was_measured(serve: Callable[..., Any], mocks: Any, tmp_path: Path, times: int) -> None:
    """Once: what is under way ends. Twice: it is dropped, and counted."""
    server = serve(lambda number: mocks.Plan(ttft=0.02 if number < 10 else 0.5 if times == 1 else 60.0))
    process = subprocess.Popen(command(server, tmp_path, "--duration", "60s", "--concurrency", "2"))
    try:
        wait_for(lambda: server.mock.count >= 12)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            wait_for(lambda: not is_pending(process, signal.SIGINT))
        assert process.wait() == 130
    finally:
        process.kill()
    document = json.loads((tmp_path / "report.json").read_text())
    statuses = [record["status"] for record in document["requests"]]
    assert document["status"] == "interrupted"
    assert statuses.count("ok") >= 10
    assert statuses.count("cancelled") == (0 if times == 1 else 2)
    assert sorted(os.listdir(tmp_path)) == ["report.json", "requests.csv", "summary.csv"]


def test_a_defect_leaves_no_report(serve: Callable[..., Any], run: Callable[..., Any], tmp_path: Path) -> None:
    from sgl_indexcache.loadtest.client import http

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    original = http.Client._read
    http.Client._read = broken  # type: ignore[assignment,method-assign]
    try:
        with pytest.raises(ZeroDivisionError):
            run(serve().url, sessions=1, out=tmp_path / "none")
    finally:
        http.Client._read = original  # type: ignore[method-assign]
    assert os.listdir(tmp_path / "none") == []


def test_kinds_of_exceptions() -> None:
    import aiohttp

    from sgl_indexcache.loadtest.client.failure import kind_of

    assert kind_of(TimeoutError(), answered=True) == "timeout"
    assert kind_of(aiohttp.ClientPayloadError(), answered=True) == "broken"
    assert kind_of(aiohttp.ServerDisconnectedError(), answered=False) == "disconnected"
    assert kind_of(ConnectionResetError(), answered=False) == "disconnected"
    assert kind_of(OSError(), answered=False) == "connect"
