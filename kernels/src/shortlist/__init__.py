"""Two-level scoring: page summaries are scored first, then only the keys of the pages that they list.

summarise, list_pages, select_listed   prefills: reference.py, cpu.py, cuda.py
judge, verdicts                        the recall guard of prefills: reference.py, cpu.py, cuda_guard.py
select_decoded                         decode steps: reference.py, cuda_decode.py

Both levels are the op score_select: over summaries in place of keys, and over a shortlist in place of a page table.
reference.py and cuda.py offer all six names, so that one stands for the other.
"""

from sgl_indexcache.kernels.shortlist.lists import GROUP, choose_pages, to_positions
from sgl_indexcache.kernels.shortlist.records import (
    JUDGED_PAGES,
    Judgement,
    Records,
    is_sampled,
    pack_summary,
    unpack_summary,
)

__all__ = [
    "GROUP",
    "JUDGED_PAGES",
    "Judgement",
    "Records",
    "choose_pages",
    "is_sampled",
    "pack_summary",
    "to_positions",
    "unpack_summary",
]
