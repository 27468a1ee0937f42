"""Reads the server's own figures while the run goes on: /metrics and /server_info, on the run's clock."""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import msgspec

PATHS = ("/metrics", "/server_info")
PREFIXES = ("sglang:", "sglang_", "sgl_indexcache", "indexcache", "vllm:")
MAX_SAMPLES = 2_000
MAX_SERIES = 400
LARGEST_ANSWER = 32 << 20
_TIMEOUT_S = 5.0
_COUNTERS = ("_total", "_count", "_sum")
_SKIPPED = ("_bucket", "_created")
_OURS = "sgl_indexcache_"
_SUMMED = {"model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank", "dp_rank", "layer"}
"""Labels of the plugin's metrics that are summed over; the others tell work done from work skipped, and so on."""


class Scraper:
    """Collects number series by name; a series is a list of [seconds, value].

    When MAX_SAMPLES rows are reached, every second one is dropped and the interval doubles, so memory stays
    bounded however long the run is.
    """

    def __init__(
        self, url: str, now: Callable[[], float], interval: float, headers: dict[str, str] | None = None
    ) -> None:
        self._url, self._now, self._interval = url.rstrip("/"), now, interval
        self._headers = headers or {}
        self._rows: list[tuple[float, dict[str, float]]] = []
        self._names: set[str] = set()
        self.info: dict[str, Any] = {}
        self.errors = 0
        self.missing: list[str] = []
        self._paths: list[str] = []

    async def first(self) -> None:
        """See what the server offers and take the first row, before anything is sent."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            self._paths = [path for path in PATHS if await self._has(session, path)]
            self.missing = [path for path in PATHS if path not in self._paths]
            if self._paths:
                await self.once(session)

    async def run(self) -> None:
        """Take rows until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            while self._paths:
                await asyncio.sleep(self._interval)
                await self.once(session)

    async def last(self) -> None:
        """One more row after the run, so that the last requests are in the figures."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        if self._paths:
            async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
                await self.once(session)

    async def _has(self, session: aiohttp.ClientSession, path: str) -> bool:
        try:
            async with session.get(self._url + path) as answer:
                return answer.status == 200
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False

    async def once(self, session: aiohttp.ClientSession) -> None:
        """One row of every path; an endpoint that fails is counted and leaves a gap."""
        now = self._now()
        values: dict[str, float] = {}
        for path in self._paths:
            try:
                async with session.get(self._url + path) as answer:
                    answer.raise_for_status()
                    text = await _bounded(answer)
                    values |= parse_metrics(text) if path == "/metrics" else self._server_info(text)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
                self.errors += 1
        values |= recall(values)
        for name in list(values):
            if name not in self._names and len(self._names) >= MAX_SERIES:
                del values[name]
        self._names |= set(values)
        self._rows.append((now, values))
        if len(self._rows) >= MAX_SAMPLES:
            self._rows = self._rows[::2]
            self._interval *= 2

    def _server_info(self, text: str) -> dict[str, float]:
        data = msgspec.json.decode(text)
        if not isinstance(data, dict):
            raise ValueError("an object is needed")
        states = data.get("internal_states")
        states = states if isinstance(states, list) else []
        state = states[0] if states and isinstance(states[0], dict) else {}
        ours = state.get("indexcache")
        if not self.info:
            self.info = {name: data[name] for name in ("version", "model_path", "served_model_name") if name in data}
        if isinstance(ours, dict):
            self.info["indexcache"] = {
                key: value for key, value in ours.items() if isinstance(value, (str, int, float, type(None)))
            }
            telemetry = ours.get("telemetry")
            metrics = telemetry.pop("metrics", None) if isinstance(telemetry, dict) else None
            # Of several ranks only /metrics knows the sum.
            spelled = metrics if isinstance(metrics, dict) and len(states) == 1 else {}
            return dict(numbers(ours, "indexcache")) | parse_spelled(spelled)
        return {}

    def document(self) -> dict[str, Any]:
        """`series`: name to [[seconds, value], ...]; `change`: last minus first value; `info` of the server."""
        series: dict[str, list[list[float]]] = {}
        for now, values in self._rows:
            for name, value in values.items():
                if name not in series and name not in self._rows[0][1] and name.partition("{")[0].endswith(_COUNTERS):
                    # A counter is first shown when it first counts; until then it was 0.
                    series[name] = [[round(self._rows[0][0], 3), 0.0]]
                series.setdefault(name, []).append([round(now, 3), value])
        # A series that never moves says nothing on a time axis; its value stays.
        constant = {name: rows[0][1] for name, rows in series.items() if len({row[1] for row in rows}) == 1}
        moving = {name: rows for name, rows in series.items() if name not in constant}
        return {
            "info": self.info,
            "series": moving,
            "constant": constant,
            "change": {name: rows[-1][1] - rows[0][1] for name, rows in moving.items()},
            "errors": self.errors,
            "missing": self.missing,
        }


async def _bounded(answer: aiohttp.ClientResponse) -> str:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > LARGEST_ANSWER:
            raise ValueError("the answer has no end")
    return body.decode(errors="replace")


def parse_metrics(text: str) -> dict[str, float]:
    """The serving metrics in Prometheus' text format, summed over labels, but see `_SUMMED`; buckets are left out.

    Raises:
        ValueError: the text is not in that format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        if not family.name.startswith(PREFIXES):
            continue
        for sample in family.samples:
            if not sample.name.endswith(_SKIPPED) and sample.value == sample.value:
                name = series_name(sample.name, sample.labels)
                values[name] = values.get(name, 0.0) + sample.value
    return values


def parse_spelled(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The same of the plugin's part of /server_info: `name{label="value"}` to value."""
    values: dict[str, float] = {}
    for spelled, value in metrics.items():
        if isinstance(value, (int, float)):
            name = series_name(spelled.partition("{")[0], dict(re.findall(r'(\w+)="(.*?)"', spelled)))
            values[name] = values.get(name, 0.0) + value
    return values


def series_name(name: str, labels: Mapping[str, str]) -> str:
    """The name of the series that a sample is added to."""
    own = sorted(f'{label}="{value}"' for label, value in labels.items() if label not in _SUMMED)
    return f"{name}{{{','.join(own)}}}" if own and name.startswith(_OURS) else name


def recall(values: Mapping[str, float]) -> dict[str, float]:
    """Measured recall since the server's start, once there is any."""
    hits, missed = (
        values.get(f'{_OURS}recall_positions_total{{result="{kind}"}}', 0.0) for kind in ("found", "missed")
    )
    return {"indexcache.recall": hits / (hits + missed)} if hits + missed else {}


def numbers(tree: dict[str, Any], name: str) -> list[tuple[str, float]]:
    """The numbers at the leaves of a tree of objects, with dotted names."""
    leaves: list[tuple[str, float]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves += numbers(value, f"{name}.{key}")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            leaves.append((f"{name}.{key}", float(value)))
    return leaves
