"""The shortlist of a row: which pages of its context are looked at, key by key."""

import math
from dataclasses import dataclass

from sgl_indexcache.kernels.layout import PAGE

SELECTIONS = 4
"""A fraction never means fewer keys than so many selections: in short contexts a selection lies in most pages."""
STEPS = 4
"""A fraction lists whole fourths of that."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """How many complete pages a row looks into, beside its own.

    size       int: keys; float in (0, 1]: fraction of the complete pages before the row
    window     pages just before the row's own that are always in
    max_pages  pages that a list may hold, whatever its size; enough for topk keys and what is forced
    """

    size: int | float
    window: int = 1
    max_pages: int = 1 << 30

    def pages(self, complete: int, topk: int) -> int:
        """Pages listed for a row with `complete` pages before its own; at least what holds topk keys and is forced."""
        keys, pages = topk, 0
        if isinstance(self.size, int):
            keys = max(keys, self.size)
        else:
            keys, pages = SELECTIONS * topk, math.ceil(self.size * complete)
        least: int = math.ceil(keys / PAGE)
        # In steps, so that the rows of a forward list few different numbers of pages.
        step = max(1, least // STEPS)
        pages = -(-pages // step) * step
        return min(complete, self.max_pages, max(pages, least, self.window + 1))

    def lists_all(self, complete: int, topk: int) -> bool:
        """Whether such a row's shortlist is its whole context."""
        return self.pages(complete, topk) == complete
