"""Runs in virtual time: client and mock in one event loop, joined in memory, on a clock that jumps.

The clock stands while there is anything to do, then goes to the next timer. So a test may assert times exactly, and
no neighbour on the machine changes them.
"""

import asyncio
from collections import deque
from typing import Any

import aiohttp
from aiohttp import web

from sgl_indexcache.loadtest.runner import Run


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only in timers."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._virtual = max(self._virtual, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class Wire(asyncio.Transport):
    """One end of a connection in memory: what is written is at the other end in the same moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop, self._protocol = loop, protocol
        self._waiting: deque[bytes] = deque()
        self._paused = self._closing = False
        self.peer: Wire

    def write(self, data: Any) -> None:
        if not self._closing:
            self._loop.call_soon(self.peer._receive, bytes(data))

    def _receive(self, data: bytes) -> None:
        if self._closing:
            return
        if self._paused:
            self._waiting.append(data)
        else:
            self._protocol.data_received(data)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._waiting and not self._paused:
            self._receive(self._waiting.popleft())

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            self._loop.call_soon(self.peer.close)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol


def join(client: asyncio.Protocol, server: asyncio.Protocol) -> None:
    """Connect two protocols."""
    loop = asyncio.get_running_loop()
    ends = Wire(loop, client), Wire(loop, server)
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    for protocol, wire in ((server, ends[1]), (client, ends[0])):
        protocol.connection_made(wire)


class Network:
    """Mocks by host name. While `install`ed, every run takes place here."""

    def __init__(self) -> None:
        self._mocks: dict[str, Any] = {}
        self._runners: dict[str, web.AppRunner] = {}

    def add(self, mock: Any) -> str:
        """Returns the mock's address."""
        host = f"mock-{len(self._mocks)}"
        self._mocks[host] = mock
        return f"http://{host}"

    def install(self, monkeypatch: Any) -> None:
        """Put the network and its clock in the place of sockets, real time and uvloop."""
        for module in (aiohttp, aiohttp.client):
            monkeypatch.setattr(module, "TCPConnector", self._connector)
        monkeypatch.setattr("sgl_indexcache.loadtest.execute._loop_run", self._execute)

    def _connector(self, **_: Any) -> aiohttp.BaseConnector:
        return _Connector(self)

    def _execute(self, run: Run) -> None:
        async def execute() -> None:
            try:
                await run.execute()
            finally:
                for runner in self._runners.values():
                    await runner.cleanup()
                self._runners.clear()

        loop = VirtualLoop()
        run.clock = loop.time
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(execute())

    async def connect(self, host: str, client: asyncio.Protocol) -> None:
        """Join a client to the mock at `host`, which is set up when it is first needed."""
        mock = self._mocks[host]
        if host not in self._runners:
            mock.clock = asyncio.get_running_loop().time
            self._runners[host] = web.AppRunner(mock.app(), access_log=None)
            await self._runners[host].setup()
        server = self._runners[host].server
        assert server is not None
        join(client, server())


class _Connector(aiohttp.BaseConnector):
    def __init__(self, network: Network) -> None:
        super().__init__(limit=0)
        self._network = network

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        protocol = self._factory()
        await self._network.connect(req.url.host, protocol)
        return protocol
