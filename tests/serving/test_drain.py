"""The drain gate without an engine: what is refused, what is counted, and when waiting ends."""

import asyncio
import json
from typing import Any

import pytest

from sgl_indexcache.sglang_port import drain
from sgl_indexcache.sglang_port.base import SeamError
from sgl_indexcache.sglang_port.drain import DrainGate


class Manager:
    """What is read of SGLang's TokenizerManager."""

    def __init__(self) -> None:
        from sglang.srt.managers.tokenizer_manager import ServerStatus

        self.gracefully_exit = False
        self.server_status = ServerStatus.Up


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_POLL_S", 0.001)
    monkeypatch.setattr(drain, "_LINGER_S", 0.0)
    monkeypatch.setattr(DrainGate, "in_flight", 0)


async def ask(gate: DrainGate, method: str, path: str, kind: str = "http") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gate({"type": kind, "method": method, "path": path}, receive, send)
    return sent


async def served(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/generate", 503),
        ("POST", "/v1/chat/completions", 503),
        ("PUT", "/anything", 503),
        ("GET", "/metrics", 200),
        ("GET", "/server_info", 200),
        ("POST", "/abort_request", 200),
    ],
)
async def test_while_draining(method: str, path: str, status: int) -> None:
    sent = await ask(DrainGate(served, lambda: True), method, path)
    assert sent[0]["status"] == status
    if status == 503:
        headers = dict(sent[0]["headers"])
        assert headers[b"content-length"] == str(len(sent[1]["body"])).encode()
        assert headers[b"connection"] == b"close"
        assert json.loads(sent[1]["body"])["error"]["code"] == 503
    assert DrainGate.in_flight == 0


async def test_before_draining_everything_is_served_and_counted() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(DrainGate.in_flight)
        await served(scope, receive, send)

    gate = DrainGate(app, lambda: False)
    assert (await ask(gate, "POST", "/generate"))[0]["status"] == 200
    assert (await ask(gate, "GET", "/metrics"))[0]["status"] == 200
    assert (await ask(gate, "", "", kind="lifespan"))[0]["status"] == 200
    assert seen == [1, 0, 0]


async def test_an_answer_that_fails_or_is_cancelled_is_no_longer_counted() -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await ask(DrainGate(breaks, lambda: False), "POST", "/generate")

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(DrainGate(hangs, lambda: False), "POST", "/generate"))
    await asyncio.sleep(0)
    assert DrainGate.in_flight == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert DrainGate.in_flight == 0


async def test_waits_for_the_signal_and_then_for_the_last_answer() -> None:
    manager = Manager()
    DrainGate.in_flight = 1
    task = asyncio.create_task(drain.wait_for_answers(manager))
    await asyncio.sleep(0.02)
    assert not task.done()
    manager.gracefully_exit = True
    await asyncio.sleep(0.02)
    assert not task.done()
    DrainGate.in_flight = 0
    await task


async def test_does_not_wait_in_an_unhealthy_server() -> None:
    from sglang.srt.managers.tokenizer_manager import ServerStatus

    manager = Manager()
    DrainGate.in_flight, manager.gracefully_exit, manager.server_status = 1, True, ServerStatus.UnHealthy
    await drain.wait_for_answers(manager)


def test_an_sglang_that_is_built_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    before = list(http_server.app.user_middleware)
    monkeypatch.setattr(TokenizerManager, "sigterm_watchdog", lambda self: None)
    with pytest.raises(SeamError, match="drain is not in force"):
        drain.install(workers=1)
    assert http_server.app.user_middleware == before


def test_with_several_tokenizer_workers_sglang_stays_as_it_is() -> None:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    before = TokenizerManager.sigterm_watchdog
    drain.install(workers=2)
    assert TokenizerManager.sigterm_watchdog is before
