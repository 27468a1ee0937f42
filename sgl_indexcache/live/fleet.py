"""The engines of a measurement: one started here, or running ones named by URL, which get their patterns back."""

import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.kept_server import KeptServer
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.pattern import Pattern

_RESTORE_PATIENCE_S = 120.0
"""An interrupted measurement leaves a forward behind, which must end before the pattern can be given back."""


@contextmanager
def fleet(
    model: ModelFacts,
    *,
    urls: Sequence[str],
    arguments: Sequence[str],
    out: Path,
    longest: int,
    capture: bool = False,
    waiting: Callable[[float], None] = lambda _: None,
) -> Iterator[list[Engine]]:
    """Engines for `model`, each with the pattern it had before when the context ends.

    urls       running servers; empty starts one here, all Full and without graphs
    arguments  further flags for the started server, which go over ours
    out        folder for the server's log, and for the note of patterns to give back
    longest    tokens of the longest request, output included
    capture    whether selections will be requested
    waiting    see server.Server
    """
    with (
        _orderly_end(),
        _engines(model, urls, arguments, out, longest, capture, waiting) as engines,
    ):
        yield engines


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM pass through every `finally`, as an interrupt from the keyboard does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _engines(
    model: ModelFacts,
    urls: Sequence[str],
    arguments: Sequence[str],
    out: Path,
    longest: int,
    capture: bool,
    waiting: Callable[[float], None],
) -> Iterator[list[Engine]]:
    if urls:
        if arguments:
            raise LiveError("server flags and --url exclude each other: the servers are running already")
        engines = [Engine(url) for url in dict.fromkeys(urls)]
        _check(engines, model)
        with _given_back(engines, out / "patterns-to-restore.json"):
            yield engines
        return
    flags = [*_flags(model, longest, capture), *arguments]
    with KeptServer(flags, out / "server.log", timeout=1800.0, waiting=waiting) as server:
        engines = [Engine(server.url)]
        _check(engines, model)
        yield engines


def _flags(model: ModelFacts, longest: int, capture: bool) -> list[str]:
    flags = ["--model-path", str(model.folder), "--pattern", "F" * model.layers]
    flags += ["--max-running-requests", "8", "--max-total-tokens", str(max(16384, 2 * longest))]
    flags += ["--random-seed", "0", "--log-level", "warning", "--skip-server-warmup"]
    flags += ["--disable-prefill-cuda-graph", "--disable-decode-cuda-graph"]
    if capture:
        flags += ["--enable-return-indexer-topk"]
    if shutil.which("nvidia-smi") is None:
        flags += ["--dtype", "float32", "--mem-fraction-static", "0.3", "--chunked-prefill-size", "2048"]
    return flags


def _check(engines: list[Engine], model: ModelFacts) -> None:
    facts: dict[str, Any] | None = None
    for engine in engines:
        layers = len(engine.pattern())
        if layers != model.layers:
            raise LiveError(
                f"the engine at {engine.url} serves a model of {layers} layers but {model.name} has {model.layers}"
            )
        own = engine.facts()
        if facts is not None and own != facts:
            name = next(name for name in own if own[name] != facts[name])
            raise LiveError(
                f"the engines differ in {name} ({facts[name]} and {own[name]}): start them with the same flags"
            )
        facts = own


@contextmanager
def _given_back(engines: list[Engine], note: Path) -> Iterator[None]:
    """Write down which pattern each engine had, and restore them; after a kill, the next measurement does."""
    note.parent.mkdir(parents=True, exist_ok=True)
    patterns = {engine.url: str(engine.pattern()) for engine in engines}
    if note.exists():
        left = json.loads(note.read_text())
        patterns |= {url: letters for url, letters in left.items() if url in patterns}
    note.write_text(json.dumps(patterns) + "\n")
    try:
        yield
    finally:
        for engine in engines:
            Engine(engine.url, engine.timeout, _RESTORE_PATIENCE_S).switch(Pattern(patterns[engine.url]))
        note.unlink()


@contextmanager
def measured_engines(
    model: ModelFacts,
    console: Console,
    *,
    urls: Sequence[str],
    arguments: Sequence[str],
    out: Path,
    longest: int,
    capture: bool = False,
) -> Iterator[list[Engine]]:
    """`fleet` for a command: the console shows how long the start takes, and is free again once it is over."""
    with (
        console.status("starting the engine") as status,
        fleet(
            model,
            urls=urls,
            arguments=arguments,
            out=out,
            longest=longest,
            capture=capture,
            waiting=lambda seconds: status.update(f"starting the engine, {seconds:.0f} s"),
        ) as engines,
    ):
        status.stop()
        yield engines
