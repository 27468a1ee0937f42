"""First and second level of two-level scoring: score page summaries, then only the keys of the listed pages."""

from sgl_indexcache.kernels.shortlist.reference import (
    PAGE,
    choose_pages,
    listed_scores,
    pack_summary,
    page_scores,
    to_positions,
    unpack_summary,
)

__all__ = [
    "PAGE",
    "choose_pages",
    "listed_scores",
    "pack_summary",
    "page_scores",
    "to_positions",
    "unpack_summary",
]
