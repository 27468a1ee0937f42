"""Two-level scoring, the formula. A page is 64 consecutive positions of a request, a group some consecutive rows.

    m[p]    = mean of the page's index keys, as fp8 e4m3 with one fp32 scale (amax / 448)
    J[g, p] = sum_h  w[g, h] * relu( q[g, h] . m[p] )     of the group's first row, for the pages before its own
    L[g]    = the first page, the last `window`, and the best by J, n in all and ascending; and the row's own page
    I[t, s] = sum_h  w[t, h] * relu( q[t, h] . k[s] )     for the positions s <= t in pages of L[group of t] alone
    selection = the k best of I

    q          [T, H, D]       index queries, any float dtype
    w          [T, H]          head gates, all constants folded in (with fp8 queries their scales too)
    summaries  [pages, D + 4]  uint8, by KV page id: fp8 key, then its fp32 scale
    index_k    by KV page id, in either layout of layout.py

The mean of the keys is scored by the very formula of a key: with ReLU the score of a mean is not the mean of the
scores, but on the trained model it ranks pages as well as that does (docs/results/two-level.md).

All arithmetic on scores is in float64. What bounds memory (`budget_bytes`) or sizes a launch (`max_complete`) is
taken as the other forms take it, and of no account here.
"""

import torch

from sgl_indexcache.kernels.layout import PAGE, SCALE_BYTES, unpack
from sgl_indexcache.kernels.score.reference import score
from sgl_indexcache.kernels.score_select.reference import score_select
from sgl_indexcache.kernels.select.reference import select
from sgl_indexcache.kernels.shortlist.records import JUDGED_PAGES, Judgement, Records, is_sampled, pack_summary


def summarise(
    index_k: torch.Tensor, page_table: torch.Tensor, summaries: torch.Tensor, has_summary: torch.Tensor, pages: int
) -> torch.Tensor:
    """Summaries of a request's first `pages` pages, packed as keys are: uint8 `[ceil(pages / 64), 64 * (D + 4)]`.

    page_table [>= pages]; a page without a summary in `has_summary` uint8 [KV pages] is summarised, and its summary
    kept in `summaries` uint8 [KV pages, D + 4].
    """
    ids = page_table[:pages].long()
    missing = ids[has_summary[ids] == 0]
    dim = summaries.shape[1] - SCALE_BYTES
    summaries[missing] = pack_summary(unpack(index_k, missing).float().view(-1, PAGE, dim).mean(1))
    has_summary[missing] = 1
    packed = torch.nn.functional.pad(summaries[ids], (0, 0, 0, -pages % PAGE)).view(-1, PAGE, dim + SCALE_BYTES)
    return torch.cat((packed[..., :dim].flatten(1), packed[..., dim:].flatten(1)), 1)


def list_pages(
    q: torch.Tensor,
    w: torch.Tensor,
    packed: torch.Tensor,
    complete: torch.Tensor,
    n: int,
    *,
    max_complete: int,
    window: int,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the pages that G groups list into out int32 `[G, n]`, ascending, without their own.

    q [G, H, D] and w [G, H] of the groups' first rows; packed as `summarise` gives it; complete int [G] > n, the pages
    before each group's own.
    """
    means = unpack(packed, torch.arange(len(packed), device=q.device))
    for group, pages in enumerate(complete.tolist()):
        scores = score(q[group, None].double(), means[:pages], w[group, None])
        scores[:, 0] = scores[:, pages - window :] = float("inf")
        out[group] = select(scores, complete[group, None], n)[0]


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
    """Write the selection of T rows among their groups' pages into out int32 `[T, k]`.

    pages    int [G, n + 1], KV pages that each group lists, its own page last; group int [T]
    lengths  int [T], keys of these pages that each row sees
    names    int [G, n + 1], what the pages are called in the result: pages of the request for positions, `pages` for
             KV slots
    initial, local  first and last of these keys that are selected before all others
    """
    for row, (nth, length) in enumerate(zip(group.tolist(), lengths.tolist(), strict=True)):
        keys = unpack(index_k, pages[nth])[:length]
        scores = score(q[row, None].double(), keys, w[row, None])
        scores[:, :initial] = scores[:, max(0, length - local) :] = float("inf")
        chosen = select(scores, lengths[row, None], k)[0]
        called = names[nth, chosen.clamp(min=0).long() // PAGE] * PAGE + chosen % PAGE
        out[row] = called.masked_fill(chosen < 0, -1)


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
    """Add S samples of one request's prefill to the records of their pages.

    exact       int [S, k], positions of exact selections, -1 for none
    listed      int [G, n + 1], pages of the request that each group lists; group int [S], of each sample
    page_table  int [P], KV pages of the request; lengths int [S], keys that each sample sees
    guard       int32 [KV pages, 2]: positions that a page's samples should have found, and have found
    counts      int64 [>= 2]: samples and positions found, added to if `counted`

    The best of a subset are those of the best that lie in it: what two-level scoring finds of an exact selection is
    what lies in the listed pages.
    """
    for row, lists, length in zip(exact, listed[group.long()], lengths.tolist(), strict=True):
        held = torch.isin(row[row >= 0] // PAGE, lists).sum()
        guard[page_table[(length - 1) // PAGE].long()] += torch.stack((held.new_tensor(len(row)), held)).int()
        if counted:
            counts[:2] += torch.stack((held.new_tensor(1), held))


def verdicts(
    guard: torch.Tensor,
    page_table: torch.Tensor,
    requests: torch.Tensor,
    complete: torch.Tensor,
    need: int,
    floor: float,
    out: torch.Tensor,
) -> None:
    """Write which contexts are to be scored exactly into out int64 `[L, R]`, 0 or 1.

    A context is judged by the latest pages whose samples make up `need` positions: by all of these pages' samples, in
    JUDGED_PAGES before it at most. It is scored exactly if they found less than `floor` of them; of fewer than `need`
    nothing is said.

    guard       int32 [L, KV pages, 2], see `judge`; page_table int [B, P]
    requests    int [R], lines of the page table; complete int [R], pages before the context's first new row
    """
    for column, (line, pages) in enumerate(zip(requests.tolist(), complete.tolist(), strict=True)):
        ids = page_table[line, max(0, pages - JUDGED_PAGES) : pages].long()
        for layer, records in enumerate(guard[:, ids].long()):
            latest = records.flip(0).cumsum(0)
            enough = (latest[:, 0] >= need).nonzero()
            expected, held = latest[enough[0, 0]].tolist() if len(enough) else (0, 0)
            out[layer, column] = len(enough) > 0 and held < floor * expected


def select_decoded(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    records: Records,
    n: int,
    k: int,
    judgement: Judgement,
    *,
    window: int,
    slots: bool,
    initial: int = 0,
    local: int = 0,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the selection of T rows, each the last of its request, into out int32 `[T, k]`.

    page_table  int [T, P], KV pages of each request; lengths int [T], keys that each row sees, 0 for padding
    n           pages that a row lists beside its own; a row with no more before its own lists all
    slots       the result holds KV slots, else positions of the request

    A row that does not list all is judged: if its context has fallen back (see `verdicts`, before any row of this step
    is counted) it is selected exactly; if it is a sample, `judge` adds it to the records.
    """
    complete = (lengths - 1).clamp(min=0) // PAGE
    lines = torch.arange(len(lengths), device=q.device)
    fallen = torch.zeros(1, len(lengths), dtype=torch.int64, device=q.device)
    verdicts(records.guard[None], page_table, lines, complete, judgement.need, judgement.floor, fallen)
    request = torch.zeros(1, dtype=torch.int32, device=q.device)  # a row is alone, so its request is the first
    for row, pages in enumerate(complete.tolist()):
        part = slice(row, row + 1)
        table, length = page_table[part], lengths[part]
        names = table if slots else torch.arange(table.shape[1], dtype=table.dtype, device=q.device)[None]
        packed = summarise(index_k, table[0], records.summaries, records.has_summary, pages)
        listed = torch.arange(min(n, pages) + 1, dtype=table.dtype, device=q.device)[None]
        if pages > n:
            list_pages(
                q[part], w[part], packed, complete[part], n, max_complete=pages, window=window, budget_bytes=0,
                out=listed[:, :n],
            )  # fmt: skip
        listed[0, -1] = pages
        columns = listed[0].long()
        left_out = (pages + 1 - len(columns)) * PAGE
        select_listed(
            q[part], w[part], index_k, table[:, columns], request, length - left_out, k, names=names[:, columns],
            initial=initial, local=local, budget_bytes=0, out=out[part],
        )  # fmt: skip
        if pages <= n:
            continue
        arguments = (q[part], w[part], index_k, table, request, length, k)
        max_length = table.shape[1] * PAGE
        if is_sampled(length.long() - 1, judgement.every):
            exact = score_select(*arguments, max_length=max_length, initial=initial, local=local)
            judge(exact, listed, request, table[0], length, records.guard, records.counts, counted=True)
        if fallen[0, row]:
            out[part] = score_select(*arguments, max_length=max_length, initial=initial, local=local, names=names)
            records.counts[2:] += torch.stack((fallen[0, row], length[0])).long()
