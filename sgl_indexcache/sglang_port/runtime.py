"""What one process of a server knows about the plugin: its settings, and in a scheduler its backend."""

from dataclasses import dataclass, field
from typing import Any

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Settings


@dataclass(slots=True)
class Runtime:
    """Process-global, because SGLang builds the pieces that meet here at different times."""

    settings: Settings = field(default_factory=Settings)
    requested: bool = False
    """whether the settings were asked for explicitly (file or environment), beyond being installed"""
    pattern: Pattern | None = None
    """the pattern in force in this scheduler; None elsewhere"""
    backend: Any = None
    """the attention backend of this scheduler; None elsewhere"""
    store: Any = None
    """the index store of this scheduler; None elsewhere, and where it is off"""
    tree: Any = None
    """the radix tree that holds the store's records; None until SGLang has built it"""


current = Runtime()
