"""The newest events of all ranks, as lines; a stream that this machine or user cannot read is left out."""

import time
from collections import deque
from typing import Any

import msgspec

from sgl_indexcache.telemetry.errors import TelemetryError
from sgl_indexcache.telemetry.events import Envelope, Fallback, PatternChanged
from sgl_indexcache.telemetry.subscriber import ClientKeys, Subscriber
from sgl_indexcache.top.source import clean

MAX_EVENTS = 200


class Recent:
    """Reads the streams at these addresses; a context manager.

    keys  for TCP; without any, only Unix sockets are read
    """

    def __init__(self, streams: tuple[tuple[str, str], ...], keys: ClientKeys | None) -> None:
        self.envelopes: deque[Envelope] = deque(maxlen=MAX_EVENTS)
        self._readers: list[Subscriber] = []
        for events, replay in streams:
            if events.startswith("ipc://") or (keys is not None and events.startswith("tcp://")):
                try:
                    reader = Subscriber(events, replay, keys if events.startswith("tcp://") else None)
                except TelemetryError:
                    continue
                self._readers.append(reader)
                self.envelopes.extend(reader.replay(timeout=1.0) or [])

    def __enter__(self) -> "Recent":
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers:
            reader.close()

    def read(self) -> None:
        """Take what has come."""
        for reader in self._readers:
            self.envelopes.extend(reader.poll(0.0))

    def lines(self) -> list[str]:
        """One a event, newest last."""
        return [line(envelope) for envelope in self.envelopes]

    def described(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest for JSON."""
        return [msgspec.to_builtins(envelope) for envelope in list(self.envelopes)[-limit:]]


def line(envelope: Envelope) -> str:
    """The event in words."""
    event = envelope.event
    moment = time.strftime("%H:%M:%S", time.localtime(envelope.time))
    if isinstance(event, PatternChanged):
        words = f"pattern changed to {event.pattern}"
    elif isinstance(event, Fallback):
        where = f"layer {event.layer}" if event.layer >= 0 else "a page without record"
        words = f"fallback to exact scoring: {where}, {event.turns} turns ({event.reason})"
    else:
        kind = str(event.__struct_config__.tag).replace("_", " ")
        rest = f"{event.reason}" if hasattr(event, "reason") else f"{event.rows} rows"
        words = f"{kind}: snapshot {event.snapshot} after {event.tokens} tokens, {rest}"
    return clean(f"{moment}  {words}")
