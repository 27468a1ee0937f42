"""What one process of a server knows about the plugin: its settings, and in a scheduler its backend."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sgl_indexcache.attention.base import Backend
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Settings
from sgl_indexcache.store import SnapshotSlots, Tail
from sgl_indexcache.store.check import TreeNode


class Tree(Protocol):
    """The radix tree that holds the store's records (seams/common/radix.py)."""

    page_size: int

    def tails_after(self, node: Any) -> Sequence[Tail]:
        """The tails of the prefix that ends with `node`."""

    def nodes(self) -> Iterator[TreeNode]:
        """Every node with snapshots."""

    def forget(self) -> None:
        """Drop every snapshot; the KV stays."""


@dataclass(slots=True)
class Runtime:
    """Process-global, because SGLang builds the pieces that meet here at different times."""

    settings: Settings = field(default_factory=Settings)
    requested: bool = False
    """whether the settings were stated explicitly (file or environment), beyond being installed"""
    pattern: Pattern | None = None
    """the pattern in force in this scheduler; None elsewhere"""
    backend: Backend | None = None
    """the attention backend of this scheduler; None elsewhere"""
    store: SnapshotSlots | None = None
    """the index store of this scheduler; None elsewhere, and where it is off"""
    tree: Tree | None = None
    """the radix tree that holds the store's records; None until SGLang has built it"""


current = Runtime()
