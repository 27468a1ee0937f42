"""The event stream: what is sent arrives, what was missed can be had again, and nobody can hold the sender up."""

import pickle
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
import zmq

from sgl_indexcache.telemetry import events
from sgl_indexcache.telemetry.events import (
    LARGEST_BYTES,
    TOPIC,
    Envelope,
    Fallback,
    PatternChanged,
    PrefixEvicted,
    PrefixReused,
    PrefixStored,
    ReplayHeader,
    ReplayRequest,
)
from sgl_indexcache.telemetry.publisher import Publisher
from sgl_indexcache.telemetry.subscriber import Subscriber

EACH = [
    PrefixStored(snapshot=1, tail=2**63 - 1, tokens=64, rows=3),
    PrefixReused(snapshot=1, tokens=64, rows=2),
    PrefixEvicted(snapshot=1, tokens=64, reason="room"),
    PatternChanged(pattern="FSFS", before="FFFF"),
    Fallback(layer=3, reason="recall", turns=1),
]


def wait(condition: Any, seconds: float = 20.0) -> None:
    """Until the publisher's thread has done something."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the publisher's thread did not get there"
        time.sleep(0.01)


def fallback(number: int) -> Fallback:
    return Fallback(layer=number, reason="recall", turns=1)


@pytest.fixture
def reader(publish: Any) -> Iterator[tuple[Publisher, Subscriber]]:
    publisher = publish()
    with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
        assert subscriber.replay() == []
        # A subscription travels by itself; what it missed is what a replay is for.
        count, known = 0, 0
        while known < count or not known:
            if not known:
                events.emit(fallback(-1))
                count += 1
            known = max([known, *(envelope.sequence for envelope in subscriber.poll(0.05))])
        yield publisher, subscriber


def test_every_kind_arrives_in_order(reader: tuple[Publisher, Subscriber]) -> None:
    publisher, subscriber = reader
    for event in EACH:
        events.emit(event)
    found: list[Envelope] = []
    wait(lambda: found.extend(subscriber.poll(0.05)) or len(found) >= len(EACH))
    assert [envelope.event for envelope in found] == EACH
    first = found[0].sequence
    assert [envelope.sequence for envelope in found] == list(range(first, first + len(EACH)))
    assert {envelope.stream for envelope in found} == {publisher.stream}
    assert (subscriber.lost, subscriber.refused) == (0, 0)
    assert publisher.counts.by_kind["pattern_changed"] == 1


def test_the_kinds_are_those_of_the_metric() -> None:
    from sgl_indexcache.telemetry import names

    assert names.EVENTS.labels[0].values == events.KINDS == tuple(e.__struct_config__.tag for e in EACH)


def test_a_late_reader_gets_the_newest_kept(publish: Any) -> None:
    publisher = publish(replay=8)
    for number in range(20):
        events.emit(fallback(number))
    wait(lambda: publisher._sequence == 20)
    with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
        found = subscriber.replay()
        assert found is not None
        assert [envelope.sequence for envelope in found] == list(range(13, 21))
        found = subscriber.replay(after=18)
        assert found is not None
        assert [envelope.event for envelope in found] == [fallback(18), fallback(19)]
        assert subscriber.replay(after=20) == []


def test_a_replay_and_the_stream_give_each_event_once(reader: tuple[Publisher, Subscriber]) -> None:
    publisher, subscriber = reader
    for number in range(50):
        events.emit(fallback(number))
    wait(lambda: not publisher._waiting)
    replayed = subscriber.replay()
    assert replayed is not None
    assert [e.event for e in replayed][-50:] == [fallback(number) for number in range(50)]
    assert subscriber.poll(0.2) == []
    events.emit(fallback(50))
    assert [envelope.event for envelope in subscriber.poll(5)] == [fallback(50)]
    assert subscriber.lost == 0


def test_a_full_queue_drops_and_counts(publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgl_indexcache.telemetry.publisher.TURN_S", 3600.0)
    publisher = publish(queue=10)
    for number in range(25):
        events.emit(fallback(number))
    assert publisher.counts.dropped == 15
    assert publisher.counts.by_kind["fallback"] == 10
    assert publisher.snapshot()["dropped"] == 15


def test_a_subscriber_that_stops_reading_loses_events_and_nobody_else_does(publish: Any) -> None:
    """More than all buffers between hold: the sender never waits, the other reader has every event."""
    publisher = publish(queue=100_000)
    context = zmq.Context()
    stuck = context.socket(zmq.SUB)
    stuck.setsockopt(zmq.RCVHWM, 1)
    stuck.setsockopt(zmq.SUBSCRIBE, b"")
    stuck.connect(publisher.address.events)
    try:
        with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
            wait(lambda: events.emit(fallback(-1)) or subscriber.poll(0.05))
            sent = 5_000
            long = PatternChanged(pattern="FS" * 64, before="F" * 128)
            got = 0
            for begin in range(0, sent, 1000):
                for _ in range(1000):
                    events.emit(long)
                target = begin + 1000
                while got < target:
                    found = subscriber.poll(5)
                    assert found
                    got += sum(isinstance(envelope.event, PatternChanged) for envelope in found)
            assert (subscriber.lost, publisher.counts.dropped) == (0, 0)
            wait(lambda: not publisher._waiting)
            received = 0
            while stuck.poll(100):
                stuck.recv_multipart()
                received += 1
            assert received < sent, "the stuck subscriber was served everything: it was not stuck"
    finally:
        context.destroy(linger=0)


def malformed(random: Random) -> Iterator[list[bytes]]:
    """Requests for a replay that are none: truncated, oversized, of another version, pickled, and noise."""
    good = msgspec.msgpack.encode(ReplayRequest(version=1, after=0))
    encode = msgspec.msgpack.encode
    yield from ([good[:length]] for length in range(len(good)))
    yield [encode({"type": "replay", "version": 2, "after": 0})]
    yield [encode({"type": "replay", "version": 1, "after": 0, "more": 1})]
    yield [encode({"type": "replay", "version": 1, "after": "0"})]
    yield [encode({"type": "other", "version": 1, "after": 0})]
    yield [encode({"version": 1, "after": 2**70 % 2**64, "type": ["replay"]})]
    yield [good, good]
    yield [b"", good]
    yield [b"\x91" * LARGEST_BYTES]
    yield [good + b"\0"]
    yield [b"\xd9\xff" + b"x" * 255]
    yield [b"\xdf\xff\xff\xff\xff"]
    for protocol in range(6):
        yield [pickle.dumps({"version": 1, "after": 0}, protocol=protocol)]
        yield [pickle.dumps(Bomb(), protocol=protocol)]
    while True:
        body = bytearray(good)
        for _ in range(random.randrange(1, 4)):
            body[random.randrange(len(body))] = random.randrange(256)
        # More than the largest number takes, or a changed byte could make a good request of it.
        yield [random.randbytes(random.randrange(1, 200))] if random.random() < 0.5 else [bytes(body) + b"\xc1" * 16]


class Bomb:
    """Whoever unpickles it fails the test."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _exploded, ("unpickled",)


def _exploded(text: str) -> None:
    raise AssertionError(text)


def test_ten_thousand_malformed_requests(publish: Any) -> None:
    """Refused one by one; the stream goes on, and a good request is answered afterwards."""
    publisher = publish()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.connect(publisher.address.replay)
    count = 10_000
    try:
        for _, frames in zip(range(count), malformed(Random(0)), strict=False):
            socket.send_multipart(frames)
        for number in range(100):
            events.emit(fallback(number))
        wait(lambda: publisher._sequence == 100)
        with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
            found = subscriber.replay(timeout=30)
            assert found is not None
            assert [envelope.event for envelope in found] == [fallback(number) for number in range(100)]
        wait(lambda: publisher.counts.refused >= count)
        assert (publisher.counts.refused, publisher.counts.answered) == (count, 1)
        assert not socket.poll(100)
        assert publisher._thread.is_alive()
    finally:
        context.destroy(linger=0)


def test_an_oversized_request_is_not_even_taken_in(publish: Any) -> None:
    publisher = publish()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    socket.connect(publisher.address.replay)
    try:
        socket.send(b"x" * (LARGEST_BYTES + 1))
        assert monitor.poll(10_000), "the connection was not closed"
        assert publisher.counts.refused == 0
    finally:
        context.destroy(linger=0)
    with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
        assert subscriber.replay(timeout=10) == []


def test_a_reader_that_asks_and_does_not_read_holds_nobody_up(publish: Any) -> None:
    publisher = publish()
    for number in range(1000):
        events.emit(fallback(number))
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.RCVHWM, 1)
    socket.connect(publisher.address.replay)
    try:
        for _ in range(300):
            socket.send(msgspec.msgpack.encode(ReplayRequest(version=1, after=0)))
        wait(lambda: publisher.counts.answered >= 300)
        with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
            found = subscriber.replay(timeout=10)
            assert found is not None
            assert len(found) == 1000
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"more": 1}, {"event": {"kind": "unknown"}}, {"event": {"kind": "fallback", "layer": 0}}],
    ids=["version", "field", "kind", "missing"],
)
def test_a_reader_refuses_what_it_does_not_know(publish: Any, change: dict[str, Any]) -> None:
    publisher = publish()
    envelope = Envelope(version=1, stream=1, sequence=1, time=0.0, rank=0, event=fallback(0))
    payload = msgspec.msgpack.encode({**msgspec.to_builtins(envelope), **change})
    with Subscriber(publisher.address.events, publisher.address.replay) as subscriber:
        assert list(subscriber._decoded([payload])) == []
        assert subscriber.refused == 1
        assert list(subscriber._decoded([msgspec.msgpack.encode(envelope)])) == [envelope]


def test_what_is_published_is_msgpack_with_a_topic(reader: tuple[Publisher, Subscriber]) -> None:
    publisher, _ = reader
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(publisher.address.replay)
    try:
        socket.send(msgspec.msgpack.encode({"type": "replay", "version": 1, "after": 0}))
        assert socket.poll(5000)
        header, first, *_ = socket.recv_multipart()
        assert msgspec.msgpack.decode(header, type=ReplayHeader).stream == publisher.stream
        assert msgspec.msgpack.decode(first)["event"] == {
            "kind": "fallback",
            "layer": -1,
            "reason": "recall",
            "turns": 1,
        }
        assert TOPIC == b"sgl_indexcache/1"
    finally:
        context.destroy(linger=0)


def test_nobody_listening_costs_nothing_and_breaks_nothing() -> None:
    events.connect(None)
    events.emit(fallback(0))
    assert not events.connected()


def test_a_restart_is_another_stream(publish: Any) -> None:
    first, second = publish(), None
    events.emit(fallback(0))
    wait(lambda: first._sequence == 1)
    with Subscriber(first.address.events, first.address.replay) as subscriber:
        assert subscriber.replay() is not None
        first.close()
        second = publish()
        wait(lambda: events.emit(fallback(1)) or subscriber.poll(0.05))
        assert subscriber.lost == 0
        assert second.stream != first.stream
