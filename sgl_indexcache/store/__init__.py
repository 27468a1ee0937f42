"""The index store: what the indexer learnt about a prefix, kept as long as the prefix.

pool.py    the memory          tables.py  which rows of a forward read and write it
tails.py   what hangs on a tree node       turns.py   what it is told, remembers and counts
keeper.py  who holds a slot: requests in flight, prefixes    check.py   its invariants
store.py   rows are read where their margin allows it        twins.py   only the very same prefill is read
"""

from sgl_indexcache.store.errors import StoreError
from sgl_indexcache.store.keeper import Keeper
from sgl_indexcache.store.pool import WINDOW, Pool
from sgl_indexcache.store.store import TOLERANCE_EPS, IndexStore
from sgl_indexcache.store.tails import Tail, Tails
from sgl_indexcache.store.turns import StoreCounters, Turn
from sgl_indexcache.store.twins import Plan, TwinStore

__all__ = [
    "TOLERANCE_EPS",
    "WINDOW",
    "IndexStore",
    "Keeper",
    "Plan",
    "Pool",
    "StoreCounters",
    "StoreError",
    "Tail",
    "Tails",
    "Turn",
    "TwinStore",
]
