"""A server that answers as told: known delays, every kind of failure, and a log of what it really did.

Speaks chat/completions, completions and SGLang's /generate. `python mock_server.py PORT` serves alone.
"""

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

FAULTS = (
    "http_400", "http_429", "http_500", "disconnect", "break", "truncate", "no_finish", "bad_json", "error_event",
    "abort", "empty", "hang", "hang_midway", "redirect",
)  # fmt: skip


@dataclass
class Plan:
    """How one request is answered. Delays in seconds; `gaps` repeats, `fault` is one of FAULTS or None.

    together  events of one write
    held      nothing is sent while this is true
    """

    ttft: float = 0.0
    gaps: tuple[float, ...] = (0.0,)
    fault: str | None = None
    cached: int = 0
    together: int = 1
    held: Callable[[], bool] = lambda: False


@dataclass
class Seen:
    """One request as the server saw it; times of the mock's clock."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    received: float
    emitted: list[float] = field(default_factory=list)


class Mock:
    """`plan(number)` says how request `number` (from 0) is answered; `log` holds every request."""

    def __init__(self, plan: Callable[[int], Plan] = lambda number: Plan(), keep_bodies: bool = True) -> None:
        self.plan = plan
        self.clock: Callable[[], float] = time.perf_counter
        self.log: list[Seen] = []
        self.count = 0
        self.flushed = 0
        self._keep = keep_bodies
        self.prompt_tokens = self.cached_tokens = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        for path in ("/v1/chat/completions", "/v1/completions", "/generate"):
            app.router.add_post(path, self._answer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/server_info", self._server_info)
        app.router.add_get("/health", self._models)
        for path in ("/model_info", "/get_model_info"):
            app.router.add_get(path, self._model_info)
        app.router.add_post("/flush_cache", self._flush)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "mock-model"}]})

    async def _model_info(self, request: web.Request) -> web.Response:
        return web.json_response({"model_path": "mock-model", "is_generation": True})

    async def _metrics(self, request: web.Request) -> web.Response:
        text = (
            "# TYPE sglang:prompt_tokens_total counter\n"
            f'sglang:prompt_tokens_total{{rank="0"}} {self.prompt_tokens}\n'
            "# TYPE sglang:num_running_reqs gauge\nsglang:num_running_reqs 3\n"
            "# TYPE python_info gauge\npython_info 1\n"
        )
        return web.Response(text=text)

    async def _server_info(self, request: web.Request) -> web.Response:
        work = {"full_keys": 100 * self.count, "shared_keys": 300 * self.count}
        metrics = {
            'sgl_indexcache_recall_positions_total{layer="0",result="found"}': 6 * self.count,
            'sgl_indexcache_recall_positions_total{layer="1",result="found"}': 3 * self.count,
            'sgl_indexcache_recall_positions_total{layer="1",result="missed"}': self.count,
            'sgl_indexcache_store_bytes{part="snapshots"}': 1000,
        }
        ours = {"version": "0", "pattern": "FSSS", "scoring": "exact", "work": work, "telemetry": {"metrics": metrics}}
        return web.json_response({"version": "mock", "internal_states": [{"indexcache": ours}]})

    async def _flush(self, request: web.Request) -> web.Response:
        self.flushed += 1
        return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        received = self.clock()
        raw = await request.read()
        number = self.count
        self.count += 1
        plan = self.plan(number)
        body = json.loads(raw)
        seen = Seen(request.path, body if self._keep else {}, dict(request.headers), received)
        if self._keep:
            self.log.append(seen)
        if (early := await self._early_fault(request, plan)) is not None:
            return early
        stream = Stream(request.path, body, plan)
        self.prompt_tokens += stream.prompt
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        due = received + plan.ttft
        tokens = 0 if plan.fault == "empty" else stream.tokens
        while plan.held():
            await asyncio.sleep(0.02)
        piece = b""
        for index in range(tokens):
            await self._until(due)
            if index == max(1, tokens // 2):
                if plan.fault == "break":
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if plan.fault == "truncate":
                    await response.write_eof()
                    return response
                if plan.fault == "hang_midway":
                    await asyncio.sleep(3600)
                if plan.fault == "bad_json":
                    await response.write(b'data: {"oops\n\n')
                if plan.fault == "error_event":
                    await response.write(b'data: {"error": {"message": "out of memory", "code": 500}}\n\n')
            last = index == tokens - 1 and plan.fault != "no_finish"
            now = self.clock()
            if self._keep:
                seen.emitted.append(now)
            piece += stream.event(index, last=last, now=now)
            if (index + 1) % plan.together == 0 or index == tokens - 1:
                await response.write(piece)
                piece = b""
            due += plan.gaps[index % len(plan.gaps)]
        if not tokens:
            await response.write(stream.event(-1, last=True, now=0.0))
        await response.write(stream.ending())
        await response.write_eof()
        return response

    async def _until(self, due: float) -> None:
        # The loop's timers end up to a millisecond early or late; the log says what really happened.
        delay = due - self.clock()
        if delay > 0:
            await asyncio.sleep(delay)

    async def _early_fault(self, request: web.Request, plan: Plan) -> web.Response | None:
        fault = plan.fault or ""
        if fault.startswith("http_"):
            return web.Response(status=int(fault[5:]), text="refused by plan")
        if fault == "redirect":
            return web.Response(status=307, headers={"Location": "http://example.invalid/"})
        if fault == "disconnect":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "hang":
            await asyncio.sleep(3600)
        return None


class Stream:
    """The events of one answer."""

    def __init__(self, path: str, body: dict[str, Any], plan: Plan) -> None:
        self._generate = path == "/generate"
        self._chat = path == "/v1/chat/completions"
        self._plan = plan
        if self._generate:
            whole = body.get("input_ids", body.get("text"))
            self.tokens = int(body["sampling_params"]["max_new_tokens"])
        else:
            whole = body.get("messages", body.get("prompt"))
            self.tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        size = sum(len(m["content"]) for m in whole) if self._chat else len(whole)
        self.prompt = size if isinstance(whole, list) and not self._chat else max(1, size // 4)
        self._running = bool((body.get("stream_options") or {}).get("continuous_usage_stats"))

    def event(self, index: int, *, last: bool, now: float) -> bytes:
        done = index + 1
        if self._generate:
            kind = "abort" if self._plan.fault == "abort" else "length"
            meta = {
                "prompt_tokens": self.prompt, "cached_tokens": self._plan.cached, "completion_tokens": done,
                "finish_reason": {"type": kind, "length": done} if last else None,
            }  # fmt: skip
            data: dict[str, Any] = {"text": "a" * done, "output_ids": [97] * done, "meta_info": meta, "at": now}
        else:
            reason = ("abort" if self._plan.fault == "abort" else "length") if last else None
            piece = {"delta": {"content": "a" if done else ""}} if self._chat else {"text": "a" if done else ""}
            data = {"choices": [{"index": 0, **piece, "finish_reason": reason}], "at": now}
            if self._running:
                data["usage"] = self._usage(done)
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    def _usage(self, done: int) -> dict[str, Any]:
        cached = {"cached_tokens": self._plan.cached}
        return {"prompt_tokens": self.prompt, "completion_tokens": done, "prompt_tokens_details": cached}

    def ending(self) -> bytes:
        if self._generate:
            return b"data: [DONE]\n\n"
        usage = self._usage(0 if self._plan.fault == "empty" else self.tokens)
        return b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"


class MockThread:
    """A Mock on a port of the loopback interface, in a thread; use as a context manager."""

    def __init__(self, mock: Mock) -> None:
        self.mock = mock
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())

    async def _start(self) -> None:
        self._runner = web.AppRunner(self.mock.app(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=4096).start()

    def __enter__(self) -> "MockThread":
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def main() -> None:
    """Serve on a port until killed: argv is PORT TTFT_S GAP_S."""
    port, ttft, gap = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    mock = Mock(lambda number: Plan(ttft=ttft, gaps=(gap,)), keep_bodies=False)
    web.run_app(mock.app(), host="127.0.0.1", port=port, access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
