"""The index store: what the indexer learnt about a prefix, kept as long as the prefix.

pool.py    the memory          tables.py  which rows of a forward read and write it
tails.py   what hangs on a tree node       store.py   who writes, what is kept, what may be read
check.py   its invariants
"""

from sgl_indexcache.store.errors import StoreError
from sgl_indexcache.store.pool import WINDOW, Pool
from sgl_indexcache.store.store import TOLERANCE_EPS, IndexStore, StoreCounters, Turn
from sgl_indexcache.store.tails import Tail, Tails

__all__ = [
    "TOLERANCE_EPS",
    "WINDOW",
    "IndexStore",
    "Pool",
    "StoreCounters",
    "StoreError",
    "Tail",
    "Tails",
    "Turn",
]
