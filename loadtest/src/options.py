"""Everything that one run needs to know: the options of the commands, and of a caller's own Python.

Every option stands here once: field, flag, help and default. Imports nothing slow, since each start of the command
line reads it.
"""

import json
import os
import urllib.parse
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import not_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_indexcache.flags import Flag, flag, flags
from sgl_indexcache.loadtest.drive.shape import Level, parse_levels
from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.measure.slo import Slo, parse_slo
from sgl_indexcache.loadtest.report.fail_if import Condition, parse_conditions
from sgl_indexcache.loadtest.units import parse_seconds

if TYPE_CHECKING:
    from sgl_indexcache.loadtest.workload.generator import SaltMode
    from sgl_indexcache.loadtest.workload.spec import Workload

APIS = ("chat", "completions", "generate")
PROMPTS = ("auto", "ids", "text")
SALTS = ("none", "run", "session")
NEW_FOLDER = Path("loadtest-results/<time>")
"""Stands for a folder of the time at which a run is described, UTC."""
REPORTED = (
    "seed", "salt_mode", "salt", "duration", "requests", "sessions", "warmup", "warmup_requests", "retries",
    "max_in_flight", "timeout",
)  # fmt: skip
"""Options that a report repeats."""
_LOAD, _SENT, _TARGET, _OUT = "Load", "What is sent", "Server under test", "Report"


def _read_headers(lines: list[str] | None, key_variable: str | None) -> dict[str, str]:
    """`Name: value` lines, and a bearer token from the environment variable `key_variable`."""
    headers = {}
    for line in lines or []:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise OptionError(f"--header {line[:40]!r}: write it like 'X-Name: value'")
        headers[name.strip()] = value.strip()
    if key_variable is not None:
        key = os.environ.get(key_variable)
        if not key:
            raise OptionError(f"the environment variable {key_variable} is empty: set it or drop --api-key-env")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _read_extra(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        extra = json.loads(text)
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise OptionError("--extra-body is no JSON object: write it like '{\"top_p\": 0.9}'")
    return extra


def _read_duration(text: str | None) -> float | None:
    return None if text is None else parse_seconds(text)


def _read_slo(text: str | None) -> Slo | None:
    return None if text is None else parse_slo(text)


def _read_folder(path: Path) -> Path:
    return path.with_name(datetime.now(UTC).strftime("%Y%m%d-%H%M%S")) if path.name == NEW_FOLDER.name else path


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """A run. Exactly one of `workload` and `trace` is set; durations are seconds; None is no limit.

    url              http(s)://host:port, without the API's path
    model            name in the body; None asks the server
    headers          of every request
    extra            keys that go over every body
    tokenizer        model folder or tokenizer.json, None for none
    prompt           ids, text, or auto: text for chat, else ids
    token_range      None takes a safe one
    salt             None draws one
    levels           stages, one after another, each with its own sessions and limits; none: a trace's own times, or
                     four sessions at a time
    warmup           seconds from a stage's begin, warmup_requests a count: sent, but left out of the figures
    speed            of a trace: 2 plays it in half the time
    scrape_interval  seconds between looks at the server's figures; 0 never looks
    grace            how long answers may still take after the first Ctrl-C
    """

    trace: Path | None = None
    trace_format: str = flag("--format", "auto, mooncake, sharegpt or recording.", default="auto")
    speed: float = flag("--speed", "2 plays the trace in half its time.", default=1.0)
    url: str = flag("--url", "Address, like http://127.0.0.1:30000.", _TARGET)
    api: str = flag("--api", "chat, completions, or SGLang's generate.", _TARGET, default="chat")
    model: str | None = flag("--model", "Name in requests; default: the server's.", _TARGET, default=None)
    headers: dict[str, str] = flags(
        Flag("--header", "'Name: value'; repeatable.", _TARGET, None, list[str] | None),
        Flag("--api-key-env", "Environment variable with the API key.", _TARGET, None, str | None),
        read=_read_headers,
    )
    timeout: float = flag("--timeout", "For a whole request.", _TARGET, default="10m", read=parse_seconds)
    plain: bool = flag("--plain", "Send only fields of OpenAI's own API.", _TARGET, default=False)
    flush_cache: bool = flag("--flush-cache", "Empty SGLang's prefix cache first.", _TARGET, default=False)
    extra: dict[str, Any] = flag(
        "--extra-body", "JSON object that goes over every body.", _TARGET,
        default=None, kind=str | None, read=_read_extra,
    )  # fmt: skip
    tokenizer: Path | None = flag("--tokenizer", "The target's model folder: exact lengths.", _SENT, default=None)
    prompt: str = flag("--prompt", "auto, ids or text.", _SENT, default="auto")
    token_range: str | None = flag("--token-range", "LOW:HIGH of random token ids.", _SENT, default=None)
    seed: int = flag("--seed", "Same seed and salt: same bytes.", _SENT, default=0, minimum=0)
    salt_mode: "SaltMode" = flag(
        "--salt", "Who shares KV: run, session (nobody), none (all runs).", _SENT, default="run"
    )
    salt: str | None = flag("--salt-value", "Text of the salt; default: drawn.", _SENT, default=None)
    workload_name: str = ""
    # The flag changes keys of a workload that the command names otherwise, so the command reads both.
    workload: "Workload | None" = flag(
        "--set", "key=value over the workload; repeatable.", _SENT, default=None, kind=list[str] | None
    )
    ignore_eos: bool = flag("--respect-eos", "Let answers end by themselves.", _SENT, default=False, read=not_)
    levels: list[Level] = flags(
        Flag("--concurrency", "Sessions at a time: 8, a sweep 1,2,4, or 1..32 with --ramp.", _LOAD, None, str | None),
        Flag("--rate", "Sessions a second: 2, 1,2,4, or 1..8 with --ramp.", _LOAD, None, str | None),
        Flag("--arrivals", "poisson or constant.", _LOAD, "poisson"),
        Flag("--ramp", "Time from one end to the other.", _LOAD, None, str | None),
        read=parse_levels,
    )
    duration: float | None = flag(
        "--duration", "Send for this long, then wait for answers.", _LOAD,
        default=None, kind=str | None, read=_read_duration,
    )  # fmt: skip
    requests: int | None = flag("--requests", "Most requests a stage.", _LOAD, default=None, minimum=1)
    sessions: int | None = flag("--sessions", "Most sessions a stage.", _LOAD, default=None, minimum=1)
    warmup: float = flag("--warmup", "Sent but not measured, as a time.", _LOAD, default="0s", read=parse_seconds)
    warmup_requests: int = flag("--warmup-requests", "The same, as a count.", _LOAD, default=0, minimum=0)
    retries: int = flag("--retries", "After a failure; each attempt is reported.", _LOAD, default=0, minimum=0)
    max_in_flight: int = flag("--max-in-flight", "Requests at a time, at most.", _LOAD, default=10_000, minimum=1)
    slo: Slo | None = flag(
        "--slo", "ttft=2s,tpot=50ms (ttft, tpot, e2e, itl).", _OUT, default=None, kind=str | None, read=_read_slo
    )
    conditions: list[Condition] = flag(
        "--fail-if", "'p99.ttft.warm > 1s'; repeatable.", _OUT,
        default=None, kind=list[str] | None, read=parse_conditions,
    )  # fmt: skip
    out: Path = flag("--out", "Folder for the reports.", _OUT, default=NEW_FOLDER, kind=Path, read=_read_folder)
    scrape_interval: float = flag(
        "--scrape-interval", "Between looks at /metrics; 0: never.", _OUT, default="2s", read=parse_seconds
    )
    html: bool = flag("--no-html", "Write JSON and CSV only.", _OUT, default=False, read=not_)
    quiet: bool = flag("--quiet", "Print errors only.", _OUT, default=False)
    grace: float = 30.0

    def __post_init__(self) -> None:
        self._check_target()
        if (self.workload is None) == (self.trace is None):
            raise OptionError("a run needs a workload or a trace, not both")
        if self.salt_mode not in SALTS:
            raise OptionError(f"--salt {self.salt_mode!r} is unknown: use one of {', '.join(SALTS)}")
        if self.speed <= 0:
            raise OptionError("--speed must be above 0")
        if self.max_in_flight < 1:
            raise OptionError("--max-in-flight must be at least 1")
        for name in ("duration", "requests", "sessions"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"--{name} must be above 0")
        for name in ("warmup", "warmup_requests", "retries", "scrape_interval", "grace"):
            if getattr(self, name) < 0:
                raise OptionError(f"--{name.replace('_', '-')} must not be negative")
        if self.workload is not None and not (self.duration or self.requests or self.sessions):
            raise OptionError("a workload never ends: add --duration, --requests or --sessions")
        if any(c.name == "goodput" for c in self.conditions) and self.slo is None:
            raise OptionError("--fail-if goodput needs objectives: add --slo ttft=2s,tpot=50ms")

    def _check_target(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{self.url[:80]!r} is no address: write it like http://127.0.0.1:30000")
        if self.api not in APIS:
            raise OptionError(f"--api {self.api!r} is unknown: use one of {', '.join(APIS)}")
        if self.prompt not in PROMPTS:
            raise OptionError(f"--prompt {self.prompt!r} is unknown: use one of {', '.join(PROMPTS)}")
        if self.api == "chat" and self.prompt == "ids":
            raise OptionError("the chat API takes no token ids: use --api completions or generate")
        if self.timeout <= 0:
            raise OptionError("--timeout must be above 0")
