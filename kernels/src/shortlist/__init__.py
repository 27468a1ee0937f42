"""Two-level scoring: page summaries are scored first, then only the keys of the pages that they list.

Both levels are the op `score_select`: over summaries in place of keys, and over a shortlist in place of a page table.
What is new here is the summary.
"""

from sgl_indexcache.kernels.shortlist.reference import (
    GROUP,
    PAGE,
    choose_pages,
    pack_summary,
    to_positions,
    unpack_summary,
)

__all__ = ["GROUP", "PAGE", "choose_pages", "pack_summary", "to_positions", "unpack_summary"]
