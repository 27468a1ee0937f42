"""The reader's side of the event stream: events as they come, missed ones by a replay, gaps counted."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq
import zmq.auth

from sgl_indexcache.telemetry.errors import TelemetryError
from sgl_indexcache.telemetry.events import (
    LARGEST_BYTES,
    TOPIC,
    VERSION,
    Envelope,
    ReplayHeader,
    ReplayRequest,
)


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """CURVE: files written by `zmq.auth.create_certificates`, this client's secret one and the server's public one."""

    secret: Path
    server: Path


class Subscriber:
    """Reads one publisher; a context manager. Raises TelemetryError when the keys cannot be read.

    refused  messages that were no event of this version
    lost     events that neither came nor were kept for a replay
    """

    def __init__(self, events: str, replay: str, keys: ClientKeys | None = None) -> None:
        self.refused = 0
        self.lost = 0
        self._next: dict[int, int] = {}
        self._decoder = msgspec.msgpack.Decoder(Envelope)
        self._context = zmq.Context()
        self._events = self._connect(zmq.SUB, events, keys)
        self._events.setsockopt(zmq.SUBSCRIBE, TOPIC)
        self._replay = self._connect(zmq.DEALER, replay, keys)

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; nothing waits for it."""
        self._context.destroy(linger=0)

    def replay(self, after: int = 0, timeout: float = 2.0) -> list[Envelope] | None:
        """The kept events after sequence `after`, oldest first; None when the publisher does not answer in time."""
        request = ReplayRequest(version=VERSION, after=after)
        while self._replay.poll(0):  # an answer that came too late for its question
            self._replay.recv_multipart()
        self._replay.send(msgspec.msgpack.encode(request))
        if not self._replay.poll(int(timeout * 1000)):
            return None
        header, *payloads = self._replay.recv_multipart()
        try:
            answer = msgspec.msgpack.decode(header, type=ReplayHeader)
        except msgspec.DecodeError:
            self.refused += 1
            return None
        envelopes = list(self._decoded(payloads))
        if envelopes:
            self._next[answer.stream] = max(self._next.get(answer.stream, 0), envelopes[-1].sequence + 1)
        return envelopes

    def poll(self, timeout: float = 0.0, limit: int = 1000) -> list[Envelope]:
        """Events that have come, waiting `timeout` seconds for the first; one that was seen before is left out."""
        payloads: list[bytes] = []
        wait = timeout
        while len(payloads) < limit and self._events.poll(int(wait * 1000)):
            frames = self._events.recv_multipart()
            wait = 0.0
            if len(frames) == 2:
                payloads.append(frames[1])
            else:
                self.refused += 1
        return [envelope for envelope in self._decoded(payloads) if self._fresh(envelope)]

    def _decoded(self, payloads: list[bytes]) -> Iterator[Envelope]:
        for payload in payloads:
            try:
                yield self._decoder.decode(payload)
            except msgspec.DecodeError:
                self.refused += 1

    def _fresh(self, envelope: Envelope) -> bool:
        expected = self._next.get(envelope.stream)
        if expected is not None and envelope.sequence < expected:
            return False
        if expected is not None:
            self.lost += envelope.sequence - expected
        self._next = {envelope.stream: envelope.sequence + 1}
        return True

    def _connect(self, kind: int, endpoint: str, keys: ClientKeys | None) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BYTES)
        socket.setsockopt(zmq.IPV6, "[" in endpoint)
        try:
            if keys is not None:
                public, secret = zmq.auth.load_certificate(keys.secret)
                if secret is None:
                    raise ValueError(f"{keys.secret} holds no secret key")
                socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
                socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
                socket.setsockopt(zmq.CURVE_SERVERKEY, zmq.auth.load_certificate(keys.server)[0])
            socket.connect(endpoint)
        except (OSError, ValueError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            raise TelemetryError(f"the event stream {endpoint} cannot be read ({error})") from None
        return socket
