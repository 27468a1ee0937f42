"""Counts of indexer work done and saved in one scheduler process."""

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class IndexerWork:
    """Plain counters since the process started; only the forward's own thread writes them.

    A row is one query of one layer; a key is one (query, key) pair of one layer.
    """

    full_rows: int = 0
    """rows for which a Full layer ran its indexer"""
    full_keys: int = 0
    """keys that those rows looked at"""
    shared_rows: int = 0
    """rows for which a Shared layer reused its producer's selection"""
    shared_keys: int = 0
    """keys that a Full layer would have looked at for those rows"""

    reused_rows: int = 0
    """rows for which a Full layer took its selection from a tail snapshot"""
    reused_keys: int = 0
    """keys that those rows would have looked at"""

    def full(self, rows: int, keys: int) -> None:
        """A Full layer selected for `rows` queries that see `keys` keys in all."""
        self.full_rows += rows
        self.full_keys += keys

    def shared(self, rows: int, keys: int) -> None:
        """A Shared layer reused selections for `rows` queries that see `keys` keys in all."""
        self.shared_rows += rows
        self.shared_keys += keys

    def reused(self, rows: int, keys: int) -> None:
        """A Full layer took the selections of `rows` queries, which see `keys` keys in all, from tail snapshots."""
        self.reused_rows += rows
        self.reused_keys += keys

    def snapshot(self) -> dict[str, int]:
        """The counters by name, for /server_info."""
        return asdict(self)
