"""Which snapshots there are: written by a request in flight, kept by a cached prefix, given up for others.

Every decision follows from the order of the calls and from counters, never from a clock, an address or the contents
of a tensor, so that all ranks of a tensor-parallel group, which see the same requests, decide the same.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import asdict

from sgl_indexcache.store.pool import Pool
from sgl_indexcache.store.requests import InFlight, RequestRows, StoreCounters
from sgl_indexcache.store.tails import PrefillKey, Tail, Tails
from sgl_indexcache.telemetry.events import EvictReason, SnapshotListener

TAILS_PER_PREFIX = 16
"""Different continuations that are kept of one prefix."""


class SnapshotSlots(ABC):
    """The slots of a pool, and who holds them.

    layers  ids of the Full layers, in order
    """

    follows_decode = True
    """whether `begin` wants the rows of decode forwards too"""
    ascending = True
    """whether the positions of a selection ascend"""

    def __init__(self, pool: Pool, layers: Sequence[int]) -> None:
        self.pool = pool
        self.window = pool.window
        self.counters = StoreCounters()
        self.listener: SnapshotListener | None = None
        self.generation = 0
        self._clock = 0
        self.configure(layers)

    def configure(self, layers: Sequence[int]) -> None:
        """Forget everything, and keep the selections of these Full layers from now on; no request may be running."""
        self.pool.configure(len(layers))
        self._layer = {layer: index for index, layer in enumerate(layers)}
        self._kept: dict[int, Tail] = {}
        self._lru: OrderedDict[int, Tail] = OrderedDict()
        self._writers: set[int] = set()
        self._live: dict[int, InFlight] = {}
        self._reading: set[int] = set()
        self._free = list(range(self.pool.slots))[::-1]
        self.generation += 1
        self._let_go()

    @abstractmethod
    def begin(self, batch: Sequence[RequestRows], requests: int | None = None) -> None:
        """Settle what the next forward reads or writes; `requests` of it, when some of them bring no rows."""

    def fits(self, layers: int) -> bool:
        """Whether `configure` would find room for at least one snapshot of that many Full layers."""
        return self.pool.slots_of(layers) > 0

    def keep(
        self,
        request: int,
        owner: Hashable,
        tails: Tails,
        offset: int,
        first: int,
        tokens: Sequence[int],
        space: Hashable,
    ) -> bool:
        """Attach the snapshot of the request's rows from `first` on to the prefix that ends there.

        tokens are those of the rows, 1 to `window`; `offset` is where in the tree node of `tails` the prefix ends, and
        `space` its extra key. Returns whether there was a snapshot to attach.
        """
        live = self._live.get(request)
        if live is None or live.owner != owner or not live.written or not 0 < len(tokens) <= self.window:
            return False
        if live.slot is not None and live.first == first:
            slot, key = live.slot, live.key
        elif live.previous is not None and live.previous[0] == first:
            _, slot, key = live.previous
        else:
            return False
        tokens = self._covered(tokens, key)
        self._clock += 1
        tail = self._kept.get(slot)
        if tail is None:
            tail = Tail(slot, tokens, space, self.generation, key, self._clock, tails, offset)
            tails.add(tail)
            self._kept[slot] = tail
            self.counters.kept += 1
        else:  # the end of this request's prompt was kept before
            tail.tokens, tail.used = tokens, self._clock
        if self.listener is not None:
            self.listener.stored(slot, first, tokens, space)
        self._supersede(tail)
        return True

    def end(self, request: int) -> None:
        """The request is gone: it writes no more. What was kept of it stays."""
        live = self._live.pop(request, None)
        if live is not None:
            self._stop_writing(live.slot)
            self._forget_previous(live)

    def drop(self, tails: Tails) -> None:
        """The prefix of these tails is gone."""
        for tail in list(tails):
            self._remove(tail, "prefix")
            self.counters.dropped += 1

    def forget(self) -> None:
        """Nothing kept is valid any longer: flush, other weights, another pattern."""
        self.generation += 1
        for tail in list(self._kept.values()):
            self._remove(tail, "prefix")
            self.counters.dropped += 1
        for request in list(self._live):
            self.end(request)
        self._let_go()

    # --- what it holds ---

    def snapshot(self) -> dict[str, int]:
        """Counters and gauges by name; free + live + held == slots, and live and reading are 0 at idle.

        live counts slots that only a request in flight holds, held those that a prefix holds.
        """
        live = sum(slot not in self._kept for slot in self._writers)
        gauges = {"slots": self.pool.slots, "free": len(self._free), "live": live, "held": len(self._kept)}
        return {**asdict(self.counters), **gauges, "requests": len(self._live), "bytes": self.pool.used_bytes}

    # --- inside ---

    def _let_go(self) -> None:
        """Neither read nor write any more in the forward that was begun."""
        self._reading.clear()

    def _covered(self, tokens: Sequence[int], key: PrefillKey | None) -> Sequence[int]:
        """Those of a request's tokens whose rows were written down."""
        return tokens

    def _says_all_of(self, tail: Tail, other: Tail) -> bool:
        """Whether `other`, of the same prefix and free to go, is of no use beside `tail`."""
        return tail.tokens[: len(other.tokens)] == other.tokens

    def _hit(self, tail: Tail, rows: int) -> None:
        """The forward to come reads the first `rows` rows of a tail."""
        self.counters.hits += 1
        self._reading.add(tail.slot)
        self._touch(tail)
        if self.listener is not None:
            self.listener.reused(tail.slot, rows)

    def _acquire(self) -> int | None:
        if self._free:
            slot = self._free.pop()
        else:
            tail = next((tail for slot, tail in self._lru.items() if slot not in self._reading), None)
            if tail is None:
                return None
            self._remove(tail, "room")
            self.counters.evicted += 1
            slot = self._free.pop()
        self._writers.add(slot)
        return slot

    def _stop_writing(self, slot: int | None) -> None:
        if slot is None:
            return
        self._writers.remove(slot)
        tail = self._kept.get(slot)
        if tail is None:
            self._free.append(slot)
        else:
            self._lru[slot] = tail

    def _forget_previous(self, live: InFlight) -> None:
        if live.previous is not None:
            self._stop_writing(live.previous[1])
            live.previous = None

    def _touch(self, tail: Tail) -> None:
        self._clock += 1
        tail.used = self._clock
        if tail.slot in self._lru:
            self._lru.move_to_end(tail.slot)

    def _supersede(self, tail: Tail) -> None:
        """Give up the tails of the same prefix that say no more than this one, and the oldest above the limit."""
        beside = tail.holder.at(tail.offset)
        if len(beside) == 1:
            return
        others = [other for other in beside if other is not tail and other.slot in self._lru]
        for other in others:
            if self._says_all_of(tail, other):
                self._remove(other, "replaced")
                self.counters.evicted += 1
        spare = sorted((other for other in others if other.slot in self._lru), key=lambda other: other.used)
        for other in spare[: max(0, len(beside) - TAILS_PER_PREFIX)]:
            self._remove(other, "room")
            self.counters.evicted += 1

    def _remove(self, tail: Tail, reason: EvictReason) -> None:
        if self.listener is not None:
            self.listener.evicted(tail.slot, reason)
        tail.holder.remove(tail)
        del self._kept[tail.slot]
        self._lru.pop(tail.slot, None)
        if tail.slot not in self._writers:
            self._free.append(tail.slot)
