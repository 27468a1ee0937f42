"""Draining: after SIGTERM the server answers what it has begun, refuses what is new with 503, and ends.

SGLang 0.5.17 waits for its running requests (managers/tokenizer_manager.py:3088 `sigterm_watchdog`) and answers 503 to
health checks meanwhile, but takes new requests all the while, so under steady traffic it never ends; and it looks at
requests, not at answers, so the last bytes of a stream can be lost. Not a seam: this concerns the process that speaks
HTTP alone, which `sgl-indexcache serve` is, and no scheduler.
"""

import asyncio
import inspect
import json
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sgl_indexcache.sglang_port.base import SeamError

# What may still be asked while draining: everything that only reads, and the end of what runs.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_STILL_SERVED = frozenset({"/abort_request"})
_POLL_S = 0.2
# Bytes handed to the socket are given this long to leave it.
_LINGER_S = 1.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_SENTENCE = "the server is shutting down; ask another replica"
_REFUSAL = json.dumps({"error": {"message": _SENTENCE, "type": "Service Unavailable", "code": 503}}).encode()


class DrainGate:
    """ASGI middleware: counts the answers under way, and refuses new work while `draining()`.

    in_flight   requests whose answers have not been handed over completely
    """

    in_flight = 0
    """Of the process; one HTTP application serves in it."""

    def __init__(self, app: App, draining: Callable[[], bool]) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        reads = scope["type"] != "http" or scope["method"] in _READING or scope["path"] in _STILL_SERVED
        if reads:
            await self._app(scope, receive, send)
        elif self._draining():
            await _refuse(send)
        else:
            DrainGate.in_flight += 1
            try:
                await self._app(scope, receive, send)
            finally:
                DrainGate.in_flight -= 1


async def _refuse(send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(_REFUSAL)).encode()),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _REFUSAL})


def _draining() -> bool:
    from sglang.srt.entrypoints.http_server import get_global_state

    state = get_global_state()
    return state is not None and bool(state.tokenizer_manager.gracefully_exit)


async def wait_for_answers(manager: Any) -> None:
    """Return when SIGTERM has come and every answer has left, or when waiting is of no use: an unhealthy server."""
    from sglang.srt.managers.tokenizer_manager import ServerStatus

    while not manager.gracefully_exit:
        await asyncio.sleep(_POLL_S)
    while DrainGate.in_flight and manager.server_status != ServerStatus.UnHealthy:
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(_LINGER_S)


def install(workers: int) -> None:
    """Put the gate into SGLang's HTTP application, before it serves.

    workers  --tokenizer-worker-num; beyond one, other processes speak HTTP and keep SGLang's own way

    Raises:
        SeamError: SGLang lacks what the gate holds on to.
    """
    if workers != 1:
        return
    from sglang.srt.entrypoints import http_server
    from sglang.srt.managers import tokenizer_manager

    TokenizerManager = tokenizer_manager.TokenizerManager
    original = getattr(TokenizerManager, "sigterm_watchdog", None)
    if not inspect.iscoroutinefunction(original) or not hasattr(http_server, "get_global_state"):
        raise SeamError("drain is not in force: SGLang's sigterm_watchdog or get_global_state is not as expected")
    if "self.gracefully_exit" not in inspect.getsource(TokenizerManager):
        raise SeamError("drain is not in force: SGLang's TokenizerManager has no gracefully_exit")

    async def sigterm_watchdog(self: Any) -> None:
        await wait_for_answers(self)
        tokenizer_manager.kill_process_tree = _end
        await original(self)

    TokenizerManager.sigterm_watchdog = sigterm_watchdog
    http_server.app.add_middleware(DrainGate, draining=_draining)


def _end(pid: int, *args: Any, **kwargs: Any) -> None:
    """The end of SGLang's drain, with exit code 0: SGLang kills its own process, which reads as out of memory."""
    from sglang.srt.utils import kill_process_tree

    kill_process_tree(pid, include_parent=False)
    logging.shutdown()
    os._exit(0)
