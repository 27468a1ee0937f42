"""Counts of two-level scoring in one scheduler process: work, and the recall guard's measurements."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LayerRecall:
    """What the guard measured of one Full layer."""

    rows: int = 0
    """rows that were also scored exactly"""
    expected: int = 0
    """positions of their exact selections"""
    held: int = 0
    """of them, those that two-level scoring selected"""
    fallbacks: int = 0
    """times that a request went back to exact scoring, because the recall of its context lay below the floor"""


@dataclass(slots=True)
class TwoLevelWork:
    """Plain counters since the process started; only the forward's own thread writes them.

    A row is one query of one layer, a key one (query, key) pair of one layer.
    """

    rows: int = 0
    """rows whose keys were shortlisted"""
    exact_rows: int = 0
    """rows that were scored exactly: short contexts, fallbacks"""
    exact_keys: int = 0
    """keys of those rows"""
    keys_seen: int = 0
    """keys that exact scoring would have scored for all these rows"""
    keys_scored: int = 0
    """keys that were scored for them"""
    keys_sampled: int = 0
    """keys that the guard had scored beside: of its samples, and on CUDA of decoded rows whose context has fallen
    back, whose lists count as scored and their other keys as saved nevertheless"""
    summaries_scored: int = 0
    """page summaries that were scored beside"""
    layers: defaultdict[int, LayerRecall] = field(default_factory=lambda: defaultdict(LayerRecall))

    def snapshot(self) -> dict[str, Any]:
        """The counters by name, for /server_info; `recall` and `fallbacks` by layer."""
        return {
            "rows": self.rows,
            "exact_rows": self.exact_rows,
            "exact_keys": self.exact_keys,
            "keys_seen": self.keys_seen,
            "keys_scored": self.keys_scored,
            "keys_sampled": self.keys_sampled,
            "summaries_scored": self.summaries_scored,
            "sampled_rows": {str(layer): recall.rows for layer, recall in sorted(self.layers.items())},
            "recall": {
                str(layer): round(recall.held / recall.expected, 5)
                for layer, recall in sorted(self.layers.items())
                if recall.expected
            },
            "fallbacks": {str(layer): recall.fallbacks for layer, recall in sorted(self.layers.items())},
        }
