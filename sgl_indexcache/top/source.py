"""One look at a server: /server_info for the plugin's counters, /metrics for SGLang's latencies, where it is served."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.telemetry import names

LARGEST_ANSWER = 32 << 20
TIMEOUT_S = 5.0
# Of all ranks together; the others are the same on each.
_ADDED = {metric.scraped for metric in names.CATALOGUE if metric.kind == "counter"} | {
    metric.name for metric in (names.STORE_SNAPSHOTS, names.STORE_BYTES, names.STORE_PAGES, names.STORE_PAGES_VALID)
}


class TopError(UserError):
    """The server cannot be looked at."""


class NoAnswerError(TopError):
    """The server does not answer now; it may later."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server said at one moment.

    moment   of this machine's monotonic clock, in seconds
    model    the served model's name
    state    what the plugin says of itself, of the first data-parallel rank
    ours     the plugin's metrics as spelled in /metrics without SGLang's labels, of all ranks together
    sglang   text of /metrics; None where the server runs without --enable-metrics
    streams  the event streams, one a rank: address and replay_address
    """

    moment: float
    model: str
    state: Mapping[str, Any]
    ours: Mapping[str, float]
    sglang: str | None
    streams: tuple[tuple[str, str], ...]


class Source:
    """Asks the server at `url`; `headers` go with every request."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise TopError(f"the address {url!r} is not understood: write http://HOST:PORT")
        self.url = url.rstrip("/")
        self._headers = dict(headers or {})

    def look(self) -> Sample:
        """One sample.

        Raises:
            NoAnswerError: nobody answers. TopError: whoever answers is no SGLang with this plugin in force.
        """
        answer = self._get("/server_info")
        if answer is None:
            raise TopError(f"the server at {self.url} has no /server_info: it is not SGLang; give its --url")
        states = _states(answer)
        if states is None:
            raise TopError(f"the answer of {self.url}/server_info is not SGLang's; give the --url of a server of it")
        mine = [state["indexcache"] for state in states if isinstance(state.get("indexcache"), dict)]
        if not mine:
            raise TopError(
                f"the server at {self.url} runs without sgl_indexcache in force; start it with sgl-indexcache serve"
            )
        telemetry = [state.get("telemetry") for state in mine]
        if not all(isinstance(one, dict) and isinstance(one.get("metrics"), dict) for one in telemetry):
            raise TopError(f"the server at {self.url} runs another version of sgl_indexcache; use that version's top")
        info = json.loads(answer)
        return Sample(
            moment=time.monotonic(),
            model=clean(info.get("served_model_name") or info.get("model_path") or ""),
            state={name: _cleaned(value) for name, value in mine[0].items() if name != "telemetry"},
            ours=_together([one["metrics"] for one in telemetry if isinstance(one, dict)]),
            sglang=self._get("/metrics"),
            streams=tuple(_stream(one) for one in telemetry if isinstance(one, dict) and one.get("events")),
        )

    def _get(self, path: str) -> str | None:
        """The answer's text; None for 404."""
        request = urllib.request.Request(self.url + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                body = answer.read(LARGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code in (401, 403):
                raise TopError(
                    f"{self.url} wants an API key ({error.code}); name its variable by --api-key-env"
                ) from None
            raise NoAnswerError(f"{self.url}{path} answers {error.code}; see the server's log") from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = clean(getattr(error, "reason", error))
            raise NoAnswerError(
                f"no server answers at {self.url} ({reason}); start one with sgl-indexcache serve or give its --url"
            ) from None
        if len(body) > LARGEST_ANSWER:
            raise TopError(f"the answer of {self.url}{path} has no end; give the --url of an SGLang server")
        return str(body.decode(errors="replace"))


def clean(value: object) -> str:
    """One printable line of bounded length: a server's text must not reach the terminal's controls."""
    return "".join(mark if mark.isprintable() else " " for mark in str(value))[:400]


def _cleaned(value: Any) -> Any:
    return clean(value) if isinstance(value, str) else value


def _states(text: str) -> list[dict[str, Any]] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    states = document.get("internal_states") if isinstance(document, dict) else None
    return states if isinstance(states, list) and all(isinstance(state, dict) for state in states) else None


def _stream(telemetry: Mapping[str, Any]) -> tuple[str, str]:
    events = telemetry["events"]
    return (str(events.get("address")), str(events.get("replay_address"))) if isinstance(events, dict) else ("", "")


def _together(ranks: list[Mapping[str, Any]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for metrics in ranks:
        for name, value in metrics.items():
            if not isinstance(value, int | float) or not name.startswith(names.PREFIX):
                continue
            name = clean(name)
            if name in totals and name.partition("{")[0] in _ADDED:
                totals[name] += value
            else:
                totals[name] = min(totals[name], value) if name == names.ACTIVE.name and name in totals else value
    return totals
