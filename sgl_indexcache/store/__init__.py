"""The index store: what the indexer learnt about a prefix, kept as long as the prefix.

page_records.py    of every KV page, for two-level scoring: summary, guard
pool.py            the memory of tail snapshots
tails.py           snapshots as a tree node holds them
slots.py           who holds a snapshot's memory: requests in flight, prefixes
requests.py        what the store is told of a forward, remembers of a request and counts
tables.py          which rows of a forward read and write it
store.py           rows are read where their margin allows it
whole_prefills.py  only the very same prefill is read
check.py           the invariants
"""

from sgl_indexcache.store.errors import StoreError
from sgl_indexcache.store.pool import WINDOW, Pool
from sgl_indexcache.store.requests import RequestRows, StoreCounters
from sgl_indexcache.store.slots import SnapshotSlots
from sgl_indexcache.store.store import TOLERANCE_EPS, IndexStore
from sgl_indexcache.store.tails import Tail, Tails
from sgl_indexcache.store.whole_prefills import CopyPlan, WholePrefillStore

__all__ = [
    "TOLERANCE_EPS",
    "WINDOW",
    "CopyPlan",
    "IndexStore",
    "Pool",
    "RequestRows",
    "SnapshotSlots",
    "StoreCounters",
    "StoreError",
    "Tail",
    "Tails",
    "WholePrefillStore",
]
