"""The events that a scheduler publishes, and how the rooms hand them over. Knows nothing of sockets.

An event holds counts and hashes, never a token id, a text or a salt. Hashes are keyed with random bytes of this
process: they tell whether two things are the same within one server's life, and cannot be tried against guesses.

On the wire (telemetry/publisher.py) an event travels in an `Envelope`, msgpack, tagged by `kind`; a field that is
not known is refused, so that a reader of another version says so instead of guessing.
"""

import secrets
from array import array
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b
from typing import Literal, Protocol, get_args

import msgspec

VERSION: Literal[1] = 1
TOPIC = b"sgl_indexcache/1"
"""First frame of every published message."""
LARGEST_BYTES = 4096
"""No event and no request for a replay is larger; a pattern has a letter a layer."""

EvictReason = Literal["room", "prefix", "replaced"]
FallbackReason = Literal["recall"]


class _Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    pass


class PrefixStored(_Event, frozen=True, tag="prefix_stored"):
    """A snapshot of the rows that follow a cached prefix was kept.

    snapshot  its number, the same in the two events below; one in the stream has it
    tail      hash of namespace, place and tokens of its rows
    tokens    length of the prefix
    rows      rows in the snapshot
    """

    snapshot: int
    tail: int
    tokens: int
    rows: int


class PrefixReused(_Event, frozen=True, tag="prefix_reused"):
    """A prefill took the selections of its first `rows` rows from a snapshot, as far as they are settled."""

    snapshot: int
    tokens: int
    rows: int


class PrefixEvicted(_Event, frozen=True, tag="prefix_evicted"):
    """A snapshot is gone: for others (room), with its prefix (prefix), or for a longer one of itself (replaced)."""

    snapshot: int
    tokens: int
    reason: EvictReason


class PatternChanged(_Event, frozen=True, tag="pattern_changed"):
    """Another pattern is in force; the radix tree was emptied."""

    pattern: str
    before: str


class Fallback(_Event, frozen=True, tag="fallback"):
    """Turns that two-level scoring left to exact scoring since the last such event."""

    layer: int
    reason: FallbackReason
    turns: int


Event = PrefixStored | PrefixReused | PrefixEvicted | PatternChanged | Fallback
KINDS: tuple[str, ...] = tuple(str(kind.__struct_config__.tag) for kind in get_args(Event))


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is published.

    version   of this format
    stream    random, one a publisher: another one means that the server was restarted and sequence begins anew
    sequence  1, 2, 3, ... without a gap in the stream; a gap in what arrives is what was lost on the way
    time      seconds since the epoch when the event was handed over
    rank      data-parallel rank
    """

    version: Literal[1]
    stream: int
    sequence: int
    time: float
    rank: int
    event: Event


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="replay"):
    """Ask for the kept events with a sequence above `after`."""

    version: Literal[1]
    after: int


class ReplayHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="replayed"):
    """First frame of the answer; `count` frames with an Envelope each follow. `newest` is the last sequence so far."""

    version: Literal[1]
    stream: int
    newest: int
    count: int


Sink = Callable[[Event], None]

_sink: Sink | None = None


def connect(sink: Sink | None) -> None:
    """Where this process's events go from now on; None: nowhere."""
    global _sink
    _sink = sink


def connected() -> bool:
    """Whether anybody wants events; ask before working for one."""
    return _sink is not None


def emit(event: Event) -> None:
    """Hand an event over. Never blocks, and does nothing when nobody listens."""
    if _sink is not None:
        _sink(event)


class SnapshotListener(Protocol):
    """What the index store tells about its slots; `first` is the position of a snapshot's first row."""

    def stored(self, slot: int, first: int, tokens: Sequence[int], space: Hashable) -> None:
        """A prefix now holds this slot, or its rows are now these."""

    def reused(self, slot: int, rows: int) -> None:
        """A prefill reads the first rows of this slot."""

    def evicted(self, slot: int, reason: EvictReason) -> None:
        """No prefix holds this slot any longer."""


class SnapshotEvents:
    """A SnapshotListener that emits events; remembers number and place of the slots in use, no more."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._number = 0
        self._slots: dict[int, tuple[int, int]] = {}

    def stored(self, slot: int, first: int, tokens: Sequence[int], space: Hashable) -> None:
        """See SnapshotListener."""
        if not connected():
            return
        self.evicted(slot, "replaced")
        self._number += 1
        self._slots[slot] = (self._number, first)
        tail = self._hash(first, tokens, space)
        emit(PrefixStored(snapshot=self._number, tail=tail, tokens=first, rows=len(tokens)))

    def reused(self, slot: int, rows: int) -> None:
        """See SnapshotListener."""
        if (known := self._slots.get(slot)) is not None:
            emit(PrefixReused(snapshot=known[0], tokens=known[1], rows=rows))

    def evicted(self, slot: int, reason: EvictReason) -> None:
        """See SnapshotListener."""
        if (known := self._slots.pop(slot, None)) is not None:
            emit(PrefixEvicted(snapshot=known[0], tokens=known[1], reason=reason))

    def _hash(self, first: int, tokens: Sequence[int], space: Hashable) -> int:
        digest = blake2b(key=self._key, digest_size=8)
        digest.update(repr((first, space)).encode())
        digest.update(array("q", tokens).tobytes())
        return int.from_bytes(digest.digest()) >> 1  # msgpack readers of some languages have signed integers only
