"""The shortlist of a row: which pages of its context are looked at, key by key."""

import math
from dataclasses import dataclass

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.kernels.shortlist import choose_pages, to_positions

DIGESTS = 2
"""Pages just before a row's own whose digests vote."""
VOTED = 4
"""Pages that they may force into the shortlist. More costs recall, since a vote knows nothing of the query."""
SELECTIONS = 4
"""A fraction never means fewer keys than so many selections: in short contexts a selection lies in most pages."""
STEPS = 4
"""A fraction lists whole fourths of that."""
ROWS_GATHERED = 4
"""Up to so many rows gather the keys of their pages; more rows are gathered page by page instead."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """How many complete pages a row looks into, beside its own.

    size     int: keys; float in (0, 1]: fraction of the complete pages before the row
    window   pages just before the row's own that are always in
    most     pages that a list may hold at most, whatever its size; enough for topk keys and what is forced
    """

    size: int | float
    window: int = 1
    most: int = 1 << 30

    def pages(self, complete: int, topk: int) -> int:
        """Pages listed for a row with `complete` pages before its own; at least what holds topk keys and is forced."""
        keys, wanted = topk, 0
        if isinstance(self.size, int):
            keys = max(keys, self.size)
        else:
            keys, wanted = SELECTIONS * topk, math.ceil(self.size * complete)
        least: int = math.ceil(keys / PAGE)
        # In steps, so that the rows of a forward list few different numbers of pages.
        step = max(1, least // STEPS)
        wanted = -(-wanted // step) * step
        return min(complete, self.most, max(wanted, least, self.window + 1 + VOTED))

    def lists_all(self, complete: int, topk: int) -> bool:
        """Whether such a row's shortlist is its whole context."""
        return self.pages(complete, topk) == complete

    def choose(self, scores: torch.Tensor, voted: torch.Tensor, n: int, initial: int, local: int) -> torch.Tensor:
        """Listed pages int32 `[R, n]`, ascending, of rows in one page with page scores `[R, complete]`.

        initial, local: number of first and last positions that a selection must hold; they fit into n pages.
        """
        rows, complete = scores.shape
        forced = torch.zeros(complete, dtype=torch.bool)
        forced[voted] = True
        forced[: max(1, -(-initial // PAGE))] = True
        near = max(self.window, -(-local // PAGE))
        forced[complete - near :] = True
        listed: torch.Tensor = choose_pages(scores, forced.expand(rows, -1), torch.full((rows,), complete), n)
        return listed


def select_listed(
    q: torch.Tensor,
    gates: torch.Tensor,
    pages: torch.Tensor,
    ids: torch.Tensor,
    listed: torch.Tensor,
    positions: torch.Tensor,
    topk: int,
    initial: int,
    local: int,
) -> torch.Tensor:
    """Selection int32 `[R, topk]` of rows in one page, among their listed pages' keys and their own page's.

    q [R, H, D], gates [R, H]; pages [pages, 64, D] index keys by KV page id; ids int64 [P] of the request, the last
    one the rows' own; listed int32 [R, n] pages of the request, ascending; positions int64 [R].
    """
    rows = listed.shape[0]
    own = ids.numel() - 1
    listed = torch.cat((listed, torch.full((rows, 1), own, dtype=torch.int32)), 1)
    n = listed.shape[1]
    if rows <= ROWS_GATHERED:
        found = [
            score(q[row : row + 1], pages[ids[listed[row].long()]].flatten(0, 1).float(), gates[row : row + 1])
            for row in range(rows)
        ]
        scores = torch.cat(found)
    else:
        scores = _by_page(q, gates, pages, ids, listed)
    lengths = (n - 1) * PAGE + positions - own * PAGE + 1
    if initial:
        scores[:, :initial] = float("inf")
    if local:
        scores.scatter_(1, lengths.unsqueeze(1) - 1 - torch.arange(local), float("inf"))
    selection: torch.Tensor = to_positions(select(scores, lengths, topk), listed)
    return selection


def _by_page(
    q: torch.Tensor, gates: torch.Tensor, pages: torch.Tensor, ids: torch.Tensor, listed: torch.Tensor
) -> torch.Tensor:
    """Scores `[R, n * 64]` of the listed pages' keys: for each page, of the rows that list it."""
    rows, n = listed.shape
    heads = q.shape[1]
    scores = torch.empty(rows * n, PAGE)
    flat = listed.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat).tolist()
    scratch = torch.empty(rows * heads * PAGE)
    begin = 0
    for page, count in enumerate(counts):
        if not count:
            continue
        at = order[begin : begin + count]
        begin += count
        who = at // n
        every = count == rows
        wanted, weights = (q, gates) if every else (q[who], gates[who])
        scores[at] = score(wanted, pages[ids[page]].float(), weights, scratch)
    return scores.view(rows, n * PAGE)
