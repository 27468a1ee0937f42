"""What the store is told of a forward, what it remembers of a request in flight, and what it counts."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from sgl_indexcache.store.tails import PrefillKey, Tail


@dataclass(frozen=True, slots=True)
class RequestRows:
    """The rows of one request in the forward to come.

    request   SGLang's req_pool_idx
    owner     the request's name, to notice that an index has changed hands
    start, end  positions of the rows
    prefill   whether they are prompt rows, computed in one go
    kind      what else decides how the forward is run: a prefill of another kind is another prefill
    tokens    their tokens, for a lookup; may be empty
    tails     the tails of the prefix that ends at `start`
    """

    request: int
    owner: Hashable
    start: int
    end: int
    prefill: bool = False
    tokens: Sequence[int] = ()
    tails: Sequence[Tail] = ()
    kind: Hashable = None

    @property
    def key(self) -> PrefillKey:
        """Names the prefill: the same rows after the same prefix, alone in a forward, give the same bits."""
        return self.start, self.end, self.kind


@dataclass(slots=True)
class StoreCounters:
    """Plain counters since the process started; the scheduler's thread writes them."""

    lookups: int = 0
    """prefills that began at the end of a cached prefix"""
    hits: int = 0
    """of them, those that found a snapshot of their first rows"""
    kept: int = 0
    """snapshots attached to a prefix"""
    evicted: int = 0
    """snapshots given up for others, least recently used first"""
    dropped: int = 0
    """snapshots that went with their prefix: evicted from the tree, flushed, or other weights"""
    untracked: int = 0
    """pages whose rows were not written down, because every slot was in use"""
    broken: int = 0
    """requests whose rows did not follow on the ones before; what was written of them was given up"""


@dataclass(slots=True)
class InFlight:
    """What a request in flight writes: the page of its last row, and for one more forward the page before.

    With overlap scheduling a request that has finished still has a row in the next forward, which may open a page.
    """

    owner: Hashable
    end: int = 0
    first: int = -1
    slot: int | None = None
    key: PrefillKey | None = None
    previous: tuple[int, int, PrefillKey | None] | None = None
    """(first, slot, key) of the page before"""
    written: bool = True
    """whether all layers of the slot have been, or will be, written: else nothing is kept"""
