"""Two-level scoring in torch on the CPU, over plain index keys; the formula and the arguments are reference.py's.

index_k  [KV pages, 64, D]  a layer's index keys, in the model's dtype
"""

import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.score.cpu import score
from sgl_indexcache.kernels.select.cpu import select
from sgl_indexcache.kernels.shortlist.lists import choose_pages, to_positions
from sgl_indexcache.kernels.shortlist.records import JUDGED_PAGES, pack_summary, unpack_summary

ROWS_AT_ONCE = 256
"""Rows whose keys are scored together: a page that many of them list is multiplied once for all."""


def summarise(
    index_k: torch.Tensor, page_table: torch.Tensor, summaries: torch.Tensor, has_summary: torch.Tensor, pages: int
) -> torch.Tensor:
    """Mean keys float32 `[pages, D]` of a request's first pages, for `list_pages`; see reference.summarise."""
    ids = page_table[:pages].long()
    missing = ids[has_summary[ids] == 0]
    if len(missing):
        summaries[missing] = pack_summary(index_k[missing].float().mean(1))
        has_summary[missing] = 1
    return unpack_summary(summaries[ids])


def list_pages(
    q: torch.Tensor,
    w: torch.Tensor,
    means: torch.Tensor,
    complete: torch.Tensor,
    n: int,
    *,
    max_complete: int,
    window: int,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the pages that G groups list into out int32 `[G, n]`; means [P, D] as `summarise` gives them."""
    groups, heads, _ = q.shape
    step = max(1, budget_bytes // (4 * heads * means.shape[0]))
    column = torch.arange(means.shape[0])
    for begin in range(0, groups, step):
        part = slice(begin, begin + step)
        before = complete[part].unsqueeze(1)
        forced = ((column == 0) | (column >= before - window)) & (column < before)
        out[part] = choose_pages(score(q[part], means, w[part]), forced, complete[part], n)


def select_listed(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    pages: torch.Tensor,
    group: torch.Tensor,
    lengths: torch.Tensor,
    k: int,
    *,
    names: torch.Tensor,
    initial: int = 0,
    local: int = 0,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the selection of T rows among their groups' pages into out int32 `[T, k]`; see reference.select_listed."""
    step = max(1, min(ROWS_AT_ONCE, budget_bytes // (4 * PAGE * pages.shape[1])))
    for begin in range(0, len(lengths), step):
        part = slice(begin, begin + step)
        lines, length = group[part].long(), lengths[part].long()
        scores = _score_listed(q[part], w[part], index_k, pages[lines])
        if initial:
            scores[:, :initial] = float("inf")
        if local:
            scores.scatter_(1, (length.unsqueeze(1) - 1 - torch.arange(local)).clamp(min=0), float("inf"))
        out[part] = to_positions(select(scores, length, k), names[lines])


def _score_listed(q: torch.Tensor, w: torch.Tensor, keys: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Scores `[R, n * 64]` of the keys [KV pages, 64, D] of the pages int32 [R, n] of each row, page by page."""
    rows, n = pages.shape
    heads = q.shape[1]
    scores = torch.empty(rows * n, PAGE)
    flat = pages.flatten()
    order = flat.argsort(stable=True)
    ids, counts = torch.unique_consecutive(flat[order], return_counts=True)
    scratch = torch.empty(rows * heads * PAGE)
    begin = 0
    for page, count in zip(ids.tolist(), counts.tolist(), strict=True):
        places = order[begin : begin + count]
        begin += count
        lines = places // n
        every = count == rows
        scores[places] = score(q if every else q[lines], keys[page].float(), w if every else w[lines], scratch)
    return scores.view(rows, n * PAGE)


def judge(
    exact: torch.Tensor,
    listed: torch.Tensor,
    group: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    guard: torch.Tensor,
    counts: torch.Tensor,
    *,
    counted: bool,
) -> None:
    """Add what `listed` int32 [G, n + 1] holds of the exact selections int32 [S, k]; see reference.judge.

    Lists ascend, as those of `list_pages` with the own page behind them do.
    """
    lines = listed[group.long()]
    page = torch.where(exact < 0, -1, exact // PAGE)
    at = torch.searchsorted(lines, page).clamp(max=lines.shape[1] - 1)
    held = ((lines.gather(1, at) == page) & (page >= 0)).sum(1)
    own = page_table[((lengths - 1) // PAGE).long()].long()
    guard.index_add_(0, own, torch.stack((torch.full_like(held, exact.shape[1]), held), 1).to(guard.dtype))
    if counted:
        counts[0] += len(held)
        counts[1] += held.sum()


def verdicts(
    guard: torch.Tensor,
    page_table: torch.Tensor,
    requests: torch.Tensor,
    complete: torch.Tensor,
    need: int,
    floor: float,
    out: torch.Tensor,
) -> None:
    """Write which contexts are to be scored exactly into out int64 `[L, R]`, 0 or 1; see reference.verdicts."""
    for column, (line, pages) in enumerate(zip(requests.tolist(), complete.tolist(), strict=True)):
        if not pages:
            out[:, column] = 0
            continue
        latest = guard[:, page_table[line, max(0, pages - JUDGED_PAGES) : pages].long()].long().flip(1).cumsum(1)
        enough = latest[..., 0] >= need
        # From the last page back, the first one with which the samples suffice.
        at = enough.int().argmax(1)
        expected, held = latest[torch.arange(len(guard)), at].unbind(1)
        out[:, column] = enough.any(1) & (held < floor * expected)
