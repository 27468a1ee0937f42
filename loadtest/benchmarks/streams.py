"""How much the client adds: many slow streams at once from a server that stamps every event.

    python loadtest/benchmarks/streams.py [--streams 2000] [--events-per-s 20000] [--seconds 20] [--json OUT]

The server is a process of its own that does little but write: a stamp of the monotonic clock, which all
processes of a machine share, stands in every event. Added latency is the time from the stamp to the moment
at which the client has parsed the event.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import time
from array import array
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import uvloop

from sgl_indexcache.loadtest.client.dialect import BodyOptions, Reader
from sgl_indexcache.loadtest.client.generate import Generate, GenerateReader
from sgl_indexcache.loadtest.client.http import Client, encode
from sgl_indexcache.loadtest.drive.garbage import QuietCollector
from sgl_indexcache.loadtest.measure.metrics import Metrics
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.workload.plan import Piece
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.loadtest.streams/1"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TICK_S = 0.002
OPENING_S = 2.0
"""Connections are opened over this time; figures begin after twice as long."""
TOKENS = (100, 300)
"""Events of an answer, at least and at most"""


class Streams(asyncio.Protocol):
    """Answers every POST on its connection with the events asked for, one each `gap` seconds."""

    running: ClassVar["list[Streams]"] = []

    def __init__(self, gap: float) -> None:
        self.gap, self.tokens, self.sent, self.due = gap, 0, 0, 0.0
        self.transport: asyncio.Transport | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\r\n\r\n" in self.received and self.received.endswith(b"}"):
            self.tokens = int(self.received.partition(b'"max_new_tokens":')[2].partition(b",")[0])
            self.received = b""
            self.sent = 0
            self.due = time.perf_counter() + self.gap
            Streams.running.append(self)
            assert self.transport is not None
            self.transport.write(HEAD)

    def connection_lost(self, error: Exception | None) -> None:
        if self in Streams.running:
            Streams.running.remove(self)

    def emit(self, now: float) -> bool:
        """Write the next event; False after the last."""
        self.sent += 1
        self.due += self.gap
        last = self.sent == self.tokens
        finish = '{"type":"length"}' if last else "null"
        event = (
            f'data: {{"text":"a","at":{now!r},"meta_info":{{"prompt_tokens":9,"cached_tokens":0,'
            f'"completion_tokens":{self.sent},"finish_reason":{finish}}}}}\n\n'
        ).encode()
        if last:
            event += b"data: [DONE]\n\n"
        assert self.transport is not None
        chunk = b"%x\r\n%b\r\n" % (len(event), event)
        self.transport.write(chunk + b"0\r\n\r\n" if last else chunk)
        return not last


def serve(port: int, gap: float, pipe: Connection) -> None:
    """The server process: runs until it is ended; tells how late it was and how much CPU it took."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.create_server(lambda: Streams(gap), "127.0.0.1", port, backlog=8192)
        pipe.send("ready")
        while not pipe.poll():
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            for stream in [stream for stream in Streams.running if stream.due <= now]:
                # The stamp is taken for each event by itself, so that the server's own work is not the client's.
                if not stream.emit(time.perf_counter()):
                    Streams.running.remove(stream)
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send(used.ru_utime + used.ru_stime)

    # asyncio writes at once; uvloop would hold writes back to the end of a tick, after the stamps.
    asyncio.run(main())


class StampReader(GenerateReader):
    """The real reader, which also notes when the event was parsed and how old it was then."""

    __slots__ = ()
    times: ClassVar["array[float]"] = array("d")
    delays: ClassVar["array[float]"] = array("d")

    def feed(self, data: bytes) -> int:
        count = super().feed(data)
        now = time.perf_counter()
        place = data.find(b'"at":') + 5
        StampReader.times.append(now)
        StampReader.delays.append(now - float(data[place : data.index(b",", place)]))
        return count


class StampGenerate(Generate):
    def reader(self, keep_reply: bool) -> Reader:
        return StampReader(keep_reply)


async def drive(url: str, streams: int, seconds: float) -> tuple[Metrics, float]:
    """Keep `streams` streams open, one request after another in each; the figures, and the begin."""
    begin = time.perf_counter()
    metrics = Metrics()
    dialect = StampGenerate(BodyOptions())
    prompt = [Piece("user", 16, ids=np.arange(16, dtype=np.int32))]
    draw = np.random.default_rng(0)
    collector = QuietCollector()
    async with Client(url, dialect, lambda: time.perf_counter() - begin, 600.0) as client:

        async def place(number: int) -> None:
            await asyncio.sleep(OPENING_S * number / streams)
            # The first answers are of any length, so that their ends are spread from the begin on.
            tokens = int(draw.integers(10, TOKENS[1]))
            while client.now() < seconds:
                record = Record(id=number, intended=client.now(), context=16, asked=tokens)
                answer = await client.send(encode(dialect.body(prompt, tokens, 1)), record)
                metrics.add(record, answer.gaps)
                tokens = int(draw.integers(*TOKENS))

        stopped = [asyncio.create_task(place(number)) for number in range(streams)]
        with collector:
            stopped.append(asyncio.create_task(collector.run()))
            await asyncio.sleep(seconds)
        for task in stopped:
            task.cancel()
        await asyncio.gather(*stopped, return_exceptions=True)
    return metrics, begin


def run(streams: int, rate: float, seconds: float) -> dict[str, Any]:
    """One measurement; durations in seconds."""
    gap = streams / rate
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    StampReader.times, StampReader.delays = array("d"), array("d")
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port, gap, theirs), daemon=True)
    server.start()
    try:
        ours.recv()
        load = os.getloadavg()[0]
        before = resource.getrusage(resource.RUSAGE_SELF)
        metrics, begin = uvloop.run(drive(f"http://127.0.0.1:{port}", streams, seconds))
        after = resource.getrusage(resource.RUSAGE_SELF)
        ours.send("stop")
        server_cpu = ours.recv()
    finally:
        server.terminate()
        server.join(5)
    times, delays = np.array(StampReader.times) - begin, np.array(StampReader.delays)
    steady = delays[(times > 2 * OPENING_S) & (times < seconds)]
    span = seconds - 2 * OPENING_S
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = np.percentile(steady, [50, 90, 95, 99, 99.9])
    names = ("p50", "p90", "p95", "p99", "p99.9")
    return {
        "streams": streams,
        "requests_done": metrics.succeeded,
        "failures": dict(metrics.failures),
        "events": len(steady),
        "events_per_s": len(steady) / span,
        "seconds": span,
        "added_latency": dict(zip(names, map(float, figures), strict=True)) | {"max": float(steady.max())},
        "client_cpu_share": cpu / seconds,
        "server_cpu_share": server_cpu / seconds,
        "client_peak_mib": after.ru_maxrss / 1024,
        "load_average_before": load,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--events-per-s", type=float, default=20_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    figures = run(arguments.streams, arguments.events_per_s, arguments.seconds)
    print(json.dumps(figures, indent=1))
    if arguments.json is not None:
        write_json(arguments.json, SCHEMA, {"entries": [figures]})


if __name__ == "__main__":
    main()
