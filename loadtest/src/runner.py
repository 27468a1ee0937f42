"""One whole run: stages one after another, the server's figures beside them, a report at the end."""

import asyncio
import secrets
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from rich.console import Console

from sgl_indexcache.loadtest.client.http import Client
from sgl_indexcache.loadtest.drive.driver import Driver
from sgl_indexcache.loadtest.drive.garbage import QuietCollector
from sgl_indexcache.loadtest.drive.gate import Gate
from sgl_indexcache.loadtest.drive.live import Dashboard
from sgl_indexcache.loadtest.drive.player import Player
from sgl_indexcache.loadtest.drive.scrape import Scraper
from sgl_indexcache.loadtest.drive.shape import Level
from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.measure.metrics import Metrics
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.measure.timeline import Timeline
from sgl_indexcache.loadtest.options import REPORTED, RunOptions
from sgl_indexcache.loadtest.report.document import Spool, heading
from sgl_indexcache.loadtest.report.fail_if import violations
from sgl_indexcache.loadtest.target import Target
from sgl_indexcache.loadtest.traces import load_trace
from sgl_indexcache.loadtest.traces.load import Trace
from sgl_indexcache.loadtest.workload.generator import Generator
from sgl_indexcache.loadtest.workload.plan import Session

_STAGE_SESSIONS = 1_000_000  # so that a stage's sessions do not depend on how far the one before came
_REFRESH_S = 0.5
_CONCURRENCY = 4


class Run:
    """A run in progress. After `execute`, `document` is the report without its requests.

    Raises from the constructor: OptionError, WorkloadError, TraceError; nothing has been sent then.
    """

    def __init__(self, options: RunOptions, console: Console) -> None:
        self.options = options
        self._console = console
        self.salt = options.salt if options.salt is not None else secrets.token_hex(8)
        self._target = Target(options)
        self._material = self._target.material()
        actual = options.workload is not None and options.workload.replies == "actual"
        # This API answers in text alone, which cannot stand in a prompt of token ids.
        if actual and options.api == "completions" and options.prompt != "text":
            raise OptionError("replies: actual with the completions API needs text: add --prompt text")
        self._trace: Trace | None = None
        self._generator: Generator | None = None
        if options.workload is not None:
            self._generator = Generator(options.workload, self._material, options.seed, options.salt_mode, self.salt)
        else:
            assert options.trace is not None
            self._trace = load_trace(
                options.trace, options.trace_format, self._material, options.seed, options.salt_mode, self.salt
            )
            if self._trace.timed and options.levels:
                raise OptionError("this trace has its own times: leave out --concurrency and --rate")
            if len(options.levels) > 1:
                raise OptionError("a trace is played once: give one level, not a sweep")
        timed = self._trace is not None and self._trace.timed
        self._levels = options.levels or [Level("trace") if timed else Level("closed", _CONCURRENCY, _CONCURRENCY)]
        self.spool = Spool(options.out)
        self.timeline = Timeline()
        self.stages: list[dict[str, Any]] = []
        self.interrupted = 0
        self.clock: Callable[[], float] = time.perf_counter
        self._begin = 0.0
        self._gate: Gate | None = None
        self._running: asyncio.Task[None] | None = None
        self._metrics = Metrics(options.slo)
        self._ids = count()
        self.document: dict[str, Any] = {}

    async def execute(self) -> None:
        """Send everything, and fill `document`."""
        options = self.options
        model = await self._target.model_name()
        if options.flush_cache:
            await self._target.flush_cache()
        loop = asyncio.get_running_loop()
        handled = _on_interrupt(loop, self._interrupt)
        self._begin = self.clock()
        scraper = Scraper(options.url, self.now, options.scrape_interval, options.headers)
        client = Client(
            options.url, self._target.dialect(model), self.now, options.timeout, options.headers,
            self.timeline.tokens,
        )  # fmt: skip
        if options.scrape_interval:
            await scraper.first()
        scraping = asyncio.create_task(scraper.run()) if options.scrape_interval else None
        collector = QuietCollector()
        collecting = asyncio.create_task(collector.run())
        try:
            async with client:
                with collector, Dashboard(self._console, options.quiet) as dashboard:
                    for number, level in enumerate(self._levels):
                        if not self.interrupted:
                            await self._stage(client, number, level, dashboard)
            if scraping is not None:
                await scraper.last()
        finally:
            collecting.cancel()
            if handled:
                loop.remove_signal_handler(signal.SIGINT)
            if scraping is not None:
                scraping.cancel()
                await asyncio.gather(scraping, return_exceptions=True)
        self.document = self._document(model, scraper.document())

    def now(self) -> float:
        """Seconds on the run's clock."""
        return self.clock() - self._begin

    async def _stage(self, client: Client, number: int, level: Level, dashboard: Dashboard) -> None:
        options = self.options
        begin = self.now()
        self._metrics = Metrics(options.slo)
        gate = Gate(options.requests, options.max_in_flight, options.warmup_requests, begin + options.warmup)
        self._gate = gate
        player = Player(client, gate, self._sink, number, options.retries, options.speed, self.timeline.sent, self._ids)
        duration = None if options.duration is None else options.warmup + options.duration
        driver = Driver(
            level, self._sessions(number), player, gate, begin, self.now, options.seed, options.sessions,
            duration, options.speed,
        )  # fmt: skip
        self._running = asyncio.create_task(driver.run())
        while not self._running.done():
            await asyncio.wait([self._running], timeout=_REFRESH_S)
            note = "stopping; Ctrl-C again to drop what is under way" if self.interrupted else ""
            dashboard.update(self.now(), level.label, self._metrics, self.timeline, note)
        if not self._running.cancelled():
            self._running.result()
        self._metrics.skipped_turns = player.skipped_turns
        self.stages.append(
            {
                "label": level.label,
                "kind": level.kind,
                "level": level.end,
                "begin": begin,
                "end": self.now(),
                "sessions": driver.started,
                "summary": self._metrics.summary(),
            }
        )

    def _sessions(self, stage: int) -> Iterator[Session]:
        if self._trace is not None:
            return self._trace.sessions
        assert self._generator is not None
        return self._generator.sessions(stage * _STAGE_SESSIONS)

    def _sink(self, record: Record, gaps: "array[float]") -> None:
        self._metrics.add(record, gaps)
        self.timeline.done(record.end, record.ok)
        self.spool.add(record)

    def _interrupt(self) -> None:
        """First: send nothing more, wait for answers. Second, or when the grace is over: drop them."""
        self.interrupted += 1
        if self._gate is not None:
            self._gate.stop()
        if self.interrupted == 1:
            asyncio.get_running_loop().call_later(self.options.grace, self._drop)
        else:
            self._drop()

    def _drop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    def _document(self, model: str, server: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        failed = sum(stage["summary"]["failed"] for stage in self.stages)
        empty = not self.stages or any(not stage["summary"]["succeeded"] for stage in self.stages)
        status = "interrupted" if self.interrupted else "failed" if failed or empty else "ok"
        workload = options.workload
        return {
            **heading(),
            "status": status,
            "violated": violations(options.conditions, self.stages),
            "target": {
                "url": self._target.public_url(),
                "api": options.api,
                "model": model,
                "token_counts": "exact" if self._material.exact else "estimated",
            },
            "run": {
                "workload_name": options.workload_name,
                "workload": None if workload is None else workload.model_dump(mode="json", exclude_none=True),
                "workload_digest": None if workload is None else workload.digest(),
                "trace": None if options.trace is None else options.trace.name,
                "trace_format": None if self._trace is None else self._trace.form,
                "speed": options.speed,
                **{name: getattr(options, name) for name in REPORTED},
                "salt": self.salt,
                "fail_if": [condition.text for condition in options.conditions],
            },
            "stages": self.stages,
            "timeline": self.timeline.document(),
            "server": server,
        }


def _on_interrupt(loop: asyncio.AbstractEventLoop, handler: Callable[[], None]) -> bool:
    try:
        loop.add_signal_handler(signal.SIGINT, handler)
    except (NotImplementedError, RuntimeError, ValueError):
        return False  # not in the main thread, or not on this system
    return True
