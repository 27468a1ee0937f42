"""Looks at a server once, or again and again until the user has seen enough."""

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.live import Live

from sgl_indexcache.telemetry.subscriber import ClientKeys
from sgl_indexcache.top.figures import figures
from sgl_indexcache.top.screen import screen
from sgl_indexcache.top.source import NoAnswerError, Sample, Source
from sgl_indexcache.top.stream import Recent

WINDOW_S = 10.0
"""Rates and percentiles are those of this long, or of one interval where that is longer."""
KEYS = (b"q", b"Q", b"\x03")


def once(source: Source, keys: ClientKeys | None) -> tuple[dict[str, Any], list[str]]:
    """Figures of the server's life, with `events.recent`, and lines about the events."""
    sample = source.look()
    report = figures(source.url, sample)
    with Recent(sample.streams, keys) as recent:
        report["events"]["recent"] = recent.described()
        return report, recent.lines()


def follow(source: Source, interval: float, keys: ClientKeys | None, *, as_json: bool, console: Console) -> None:
    """Until q, Ctrl-C or, with JSON, the reader's end: one screen or one line of JSON an interval.

    Raises:
        TopError: the server does not answer at the start; later it may come and go.
    """
    samples: deque[Sample] = deque([source.look()])
    with Recent(samples[0].streams, keys) as recent, contextlib.ExitStack() as stack:
        show: Callable[[dict[str, Any], str], None]
        pressed: Callable[[float], bool]
        if as_json:

            def show(report: dict[str, Any], notice: str) -> None:
                report["events"]["recent"] = recent.described()
                print(json.dumps({**report, "notice": notice or None}), flush=True)

            pressed = _sleep
        else:
            live = stack.enter_context(Live(console=console, screen=True, auto_refresh=False))
            pressed = stack.enter_context(_keyboard())

            def show(report: dict[str, Any], notice: str) -> None:
                live.update(screen(report, recent.lines(), notice), refresh=True)

        show(figures(source.url, samples[0]), "")
        while not pressed(interval):
            notice = ""
            try:
                samples.append(source.look())
            except NoAnswerError as error:
                notice = str(error)
            while len(samples) > 2 and samples[-1].moment - samples[1].moment >= WINDOW_S:
                samples.popleft()
            recent.read()
            before = samples[0] if len(samples) > 1 else None
            show(figures(source.url, samples[-1], before), notice)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """A function that waits and says whether the user wants to leave; the terminal is as before afterwards."""
    previous = signal.signal(signal.SIGTERM, _leave)
    if not sys.stdin.isatty():
        try:
            yield _sleep
        finally:
            signal.signal(signal.SIGTERM, previous)
        return
    mode = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, mode)
        signal.signal(signal.SIGTERM, previous)


def _leave(*_: object) -> None:
    raise SystemExit(143)


def _pressed(seconds: float) -> bool:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready:
            # Not through sys.stdin: what it had read ahead, select would not see.
            pressed = os.read(sys.stdin.fileno(), 64)
            if not pressed or any(key in pressed for key in KEYS):
                return True
    return False
