"""What the rest of a scheduler may ask of its attention backend, the same on every device."""

from typing import Protocol

from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.telemetry.work import IndexerWork


class Backend(Protocol):
    """The attention backend `indexcache`: cpu.py, cuda.py.

    work       counts of indexer work done and saved
    kernels    name of the kernel in use, by phase ("prefill", "decode") and work ("indexer", "attention")
    two_level  two-level scoring; None when scoring is exact
    """

    work: IndexerWork
    kernels: dict[tuple[str, str], str]

    @property
    def two_level(self) -> TwoLevel | None: ...

    def configure(self, pattern: Pattern) -> None:
        """Serve another pattern from the next forward on, and forget page records; no request may be running."""
