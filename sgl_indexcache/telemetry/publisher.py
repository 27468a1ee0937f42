"""Publishes a scheduler's events over ZMQ, from a thread of its own, so that no reader can hold the scheduler up.

The scheduler appends to a bounded queue and goes on. The thread numbers and encodes the events, sends them on a PUB
socket, which drops what a slow subscriber does not take, and answers requests for a replay on a ROUTER socket. What
arrives there is data from a stranger: one frame of bounded size, one msgpack type with no unknown field, or it is
counted and thrown away unanswered.

Published: [TOPIC, Envelope]. A replay, asked for with a DEALER socket: [ReplayRequest]; the answer:
[ReplayHeader, Envelope, Envelope, ...].
"""

import contextlib
import logging
import secrets
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
import zmq.auth.thread

from sgl_indexcache.telemetry.address import Address
from sgl_indexcache.telemetry.errors import TelemetryError
from sgl_indexcache.telemetry.events import (
    LARGEST_BYTES,
    TOPIC,
    VERSION,
    Envelope,
    Event,
    ReplayHeader,
    ReplayRequest,
)

logger = logging.getLogger(__name__)

TURN_S = 0.02
"""The thread works once in this time, and then so little that the scheduler never waits long for Python's lock."""
MOST_EVENTS = 256
MOST_FRAMES = 64
MOST_REPLAYS = 4
"""Events published, requests read and requests answered in a turn."""
EVENTS_HELD, REPLAYS_HELD = 1024, 4
"""Messages that ZMQ keeps for one peer that does not read."""


@dataclass(slots=True)
class EventCounts:
    """Plain counters; `by_kind` and `dropped` belong to the scheduler's thread, the others to the publisher's."""

    by_kind: Counter[str] = field(default_factory=Counter)
    """events handed over and queued"""
    dropped: int = 0
    """events that found the queue full"""
    answered: int = 0
    refused: int = 0
    """requests for a replay"""


class Publisher:
    """A thread with two sockets; `close` ends both.

    address  where to listen
    rank     data-parallel rank, for the envelopes
    queue    events that may wait for the thread
    replay   newest events that are kept for a replay

    Raises:
        TelemetryError: an address cannot be bound.
    """

    def __init__(self, address: Address, *, rank: int = 0, queue: int = 4096, replay: int = 1024) -> None:
        self.address = address
        self.counts = EventCounts()
        self.stream = secrets.randbits(63)
        self._rank = rank
        self._limit = queue
        self._waiting: deque[tuple[float, Event]] = deque()
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=replay)
        self._sequence = 0
        self._stop = threading.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ReplayRequest)
        self._context = zmq.Context()
        self._guard: Any = None
        try:
            self._guard = self._admit()
            self._events = self._bind(zmq.PUB, address.events, EVENTS_HELD)
            self._requests = self._bind(zmq.ROUTER, address.replay, REPLAYS_HELD)
        except zmq.ZMQError as error:
            self._end_guard()
            self._context.destroy(linger=0)
            raise TelemetryError(
                f"telemetry.address: {address.events} and {address.replay} cannot be bound ({error}); name another"
            ) from None
        self._thread = threading.Thread(target=self._run, name="indexcache-events", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Queue an event, or count it as dropped; never waits. For one thread, the scheduler's."""
        if len(self._waiting) >= self._limit:
            self.counts.dropped += 1
            return
        self._waiting.append((time.time(), event))
        self.counts.by_kind[str(event.__struct_config__.tag)] += 1

    def close(self) -> None:
        """Publish what waits, stop the thread and free the addresses."""
        self._stop.set()
        self._thread.join(timeout=5)

    def snapshot(self) -> dict[str, Any]:
        """Addresses, stream and counts, for /server_info."""
        counts = self.counts
        return {
            "address": self.address.events,
            "replay_address": self.address.replay,
            "stream": self.stream,
            "events": dict(counts.by_kind),
            "dropped": counts.dropped,
            "replays_answered": counts.answered,
            "replays_refused": counts.refused,
        }

    # --- sockets ---

    def _admit(self) -> Any:
        """Let only the known clients' keys pass; a thread of ZMQ's own, for TCP."""
        if self.address.keys is None:
            return None
        guard = zmq.auth.thread.ThreadAuthenticator(self._context)
        guard.start()
        guard.configure_curve(domain="*", location=self.address.keys.clients)
        return guard

    def _bind(self, kind: int, endpoint: str, held: int) -> "zmq.Socket[bytes]":
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, held)
        socket.setsockopt(zmq.RCVHWM, MOST_FRAMES)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BYTES)
        socket.setsockopt(zmq.IPV6, "[" in endpoint)
        if self.address.keys is not None:
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self.address.keys.public)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self.address.keys.secret)
            socket.setsockopt(zmq.CURVE_SERVER, True)
        socket.bind(endpoint)
        return socket

    def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.stop()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while not self._stop.wait(TURN_S):
                self._answer()
                self._publish(MOST_EVENTS)
            self._publish(len(self._waiting))
        except zmq.ZMQError:
            logger.exception("the event stream has ended")
        finally:
            self._end_guard()
            self._context.destroy(linger=200)

    def _publish(self, limit: int) -> None:
        for _ in range(min(limit, len(self._waiting))):
            moment, event = self._waiting.popleft()
            self._sequence += 1
            payload = self._encoder.encode(
                Envelope(
                    version=VERSION,
                    stream=self.stream,
                    sequence=self._sequence,
                    time=moment,
                    rank=self._rank,
                    event=event,
                )
            )
            self._kept.append((self._sequence, payload))
            # PUB never waits: what a subscriber's queue does not hold is dropped, for this one alone.
            self._events.send_multipart((TOPIC, payload), flags=zmq.NOBLOCK)

    def _answer(self) -> None:
        answered = 0
        for _ in range(MOST_FRAMES):
            if answered == MOST_REPLAYS:
                return
            try:
                frames = self._requests.recv_multipart(flags=zmq.NOBLOCK)
            except zmq.Again:
                return
            request = self._read(frames[1:])
            if request is None:
                self.counts.refused += 1
                continue
            # ROUTER drops what a peer that does not read has no room for, or says that it would have to wait.
            with contextlib.suppress(zmq.Again):
                self._requests.send_multipart([frames[0], *self._replay(request.after)], flags=zmq.NOBLOCK)
            answered += 1
            self.counts.answered += 1

    def _read(self, frames: list[bytes]) -> ReplayRequest | None:
        if len(frames) != 1 or len(frames[0]) > LARGEST_BYTES:
            return None
        try:
            return self._decoder.decode(frames[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _replay(self, after: int) -> list[bytes]:
        payloads = [payload for sequence, payload in self._kept if sequence > after]
        header = ReplayHeader(version=VERSION, stream=self.stream, newest=self._sequence, count=len(payloads))
        return [self._encoder.encode(header), *payloads]
