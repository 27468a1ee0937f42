"""Two-level scoring, the formula. A page is 64 consecutive positions of a request, a group 4 consecutive rows.

    m[p]  = mean of the page's index keys, as fp8 e4m3 with one fp32 scale (amax / 448)
    J[t, p] = sum_h  w[t, h] * relu( q[t, h] . m[p] )     for the complete pages before row t's own
    L[g]  = the first page, the last `window`, and the best by J of the group's first row, n in all; and its own page
    I[t, s] = sum_h  w[t, h] * relu( q[t, h] . k[s] )     for the positions s <= t of L[t // 4] alone
    selection = the k best of I

    q          [T, H, D]          index queries
    w          [T, H]             head gates, all constants folded in (with fp8 queries their scales too)
    summaries  [pages, D + 4]     uint8, by KV page id: fp8 key, then its fp32 scale
    index_k    [pages, 64*(D+4)]  uint8, by KV page id: 64 fp8 keys, then 64 fp32 scales (SGLang's own layout)

The mean of the keys is scored by the very formula of a key: with ReLU the score of a mean is not the mean of the
scores, but on the trained model it ranks pages as well as that does (docs/results/store.md).
"""

import torch

from sgl_indexcache.kernels.score.reference import score
from sgl_indexcache.kernels.score_select.reference import unpack
from sgl_indexcache.kernels.select.reference import select

PAGE = 64
GROUP = 4
"""Rows, at positions that are equal up to the remainder by 4, that share the shortlist of the first of them."""
FP8_MAX = 448.0
SCALE_BYTES = 4


def pack_summary(mean: torch.Tensor) -> torch.Tensor:
    """Summaries uint8 `[..., D + 4]` of mean keys float32 `[..., D]`."""
    scale = (mean.abs().amax(-1, keepdim=True) / FP8_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    key = (mean / scale).to(torch.float8_e4m3fn)
    return torch.cat((key.view(torch.uint8), scale.view(torch.uint8)), -1)


def unpack_summary(packed: torch.Tensor) -> torch.Tensor:
    """Mean keys float32 `[..., D]` of summaries uint8 `[..., D + 4]`."""
    packed = packed.contiguous()
    key = packed[..., :-SCALE_BYTES].contiguous().view(torch.float8_e4m3fn).float()
    return key * packed[..., -SCALE_BYTES:].contiguous().view(torch.float32)


def summarise(
    index_k: torch.Tensor, page_table: torch.Tensor, summaries: torch.Tensor, there: torch.Tensor, pages: int
) -> torch.Tensor:
    """Summaries of a request's first `pages` pages, laid out as index_k; see api.summarise."""
    ids = page_table[:pages].long()
    missing = ids[there[ids] == 0]
    means = unpack(index_k, missing).float().view(-1, PAGE, summaries.shape[1] - SCALE_BYTES).mean(1)
    summaries[missing] = pack_summary(means)
    there[missing] = 1
    packed = torch.nn.functional.pad(summaries[ids], (0, 0, 0, -pages % PAGE)).view(-1, PAGE, summaries.shape[1])
    key, scale = packed.split((summaries.shape[1] - SCALE_BYTES, SCALE_BYTES), 2)
    return torch.cat((key.flatten(1), scale.flatten(1)), 1)


def choose_pages(scores: torch.Tensor, forced: torch.Tensor, pages: torch.Tensor, n: int) -> torch.Tensor:
    """Listed pages int32 `[T, n]`: the `forced` ones (bool [T, P]), then the best of `scores [T, P]`.

    Row t chooses among its first `pages[t]`, at least n; of equal scores the lower page wins. At most n are forced.
    Overwrites `scores`.
    """
    return select(scores.masked_fill_(forced, float("inf")), pages, n)


def to_positions(picks: torch.Tensor, listed: torch.Tensor) -> torch.Tensor:
    """Positions, in `picks`' dtype, of columns `picks [T, k]` of the listed pages' scores; -1 stays -1."""
    page = listed.gather(1, (picks.clamp(min=0) // PAGE).long())
    return torch.where(picks < 0, -1, page * PAGE + picks % PAGE).to(picks.dtype)


def list_pages(
    q: torch.Tensor, w: torch.Tensor, means: torch.Tensor, complete: torch.Tensor, n: int, window: int
) -> torch.Tensor:
    """Listed pages int32 `[G, n]`, ascending, of the first rows of G groups: q [G, H, D], w [G, H].

    means [P, D] are those of the request's pages, `complete [G]` > n how many of them lie before each row's own.
    """
    scores = score(q, means, w)
    column = torch.arange(means.shape[0], device=q.device)
    forced = (column == 0) | (column >= complete.unsqueeze(1) - window)
    return choose_pages(scores, forced & (column < complete.unsqueeze(1)), complete, n)


def select_listed(
    q: torch.Tensor, w: torch.Tensor, keys: torch.Tensor, listed: torch.Tensor, position: torch.Tensor, k: int
) -> torch.Tensor:
    """Selection int32 `[T, k]` of rows q [T, H, D], w [T, H] at `position [T]` among the pages `listed [T, n]`, the
    last of which is a row's own; keys [S, D] of the request.
    """
    there = (listed.long().unsqueeze(2) * PAGE + torch.arange(PAGE, device=q.device)).flatten(1)
    there = there.clamp(max=len(keys) - 1)  # the row's own page may not be full
    scores = torch.stack([score(q[row, None], keys[at], w[row, None])[0] for row, at in enumerate(there)])
    lengths = (listed.shape[1] - 1) * PAGE + position % PAGE + 1
    return to_positions(select(scores, lengths, k), listed)


def judge(
    wanted: torch.Tensor,
    listed: torch.Tensor,
    group: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    guard: torch.Tensor,
    counts: torch.Tensor,
    *,
    counted: bool,
) -> None:
    """Add samples to records and counts; arguments as of guard.judge.

    The best of a subset are those of the best that lie in it: what two-level scoring finds of an exact selection
    `wanted [S, k]` is what lies in the listed pages.
    """
    for row, lists, length in zip(wanted, listed[group.long()], lengths.tolist(), strict=True):
        there = row[row >= 0]
        found = torch.isin(there // PAGE, lists).sum()
        guard[page_table[(length - 1) // PAGE].long()] += torch.stack((found.new_tensor(len(row)), found)).int()
        if counted:
            counts[:2] += torch.stack((found.new_tensor(1), found))


def verdicts(
    guard: torch.Tensor,
    page_table: torch.Tensor,
    requests: torch.Tensor,
    complete: torch.Tensor,
    need: int,
    floor: float,
    out: torch.Tensor,
) -> None:
    """Which contexts are to be scored exactly, by the latest pages whose samples make up `need` positions, however far
    back; arguments as of guard.verdicts."""
    for column, (line, pages) in enumerate(zip(requests.tolist(), complete.tolist(), strict=True)):
        for layer, records in enumerate(guard[:, page_table[line, :pages].long()].long()):
            latest = records.flip(0).cumsum(0)
            enough = (latest[:, 0] >= need).nonzero()
            wanted, found = latest[enough[0, 0]].tolist() if len(enough) else (0, 0)
            out[layer, column] = len(enough) > 0 and found < floor * wanted


def select_decoded(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    n: int,
    k: int,
    window: int,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Selection int32 `[T, k]` of the last rows of T requests, as positions, and the pages that each lists, its own
    last; q [T, H, D], w [T, H], index_k and page_table [T, P] by KV page id, lengths [T] > 0.
    """
    found, lists = [], []
    for row, length in enumerate(lengths.tolist()):
        complete = (length - 1) // PAGE
        ids = page_table[row, : complete + 1].long()
        keys = unpack(index_k, ids).float()
        means = unpack_summary(pack_summary(keys[: complete * PAGE].view(complete, PAGE, keys.shape[1]).mean(1)))
        one, gates = q[row, None].float(), w[row, None]
        listed = torch.arange(complete, dtype=torch.int32, device=q.device)
        if complete > n:
            listed = list_pages(one, gates, means, torch.tensor([complete], device=q.device), n, window)[0]
        listed = torch.cat((listed, listed.new_tensor([complete])))
        at = torch.tensor([length - 1], device=q.device)
        found.append(select_listed(one, gates, keys[:length], listed[None], at, k))
        lists.append(listed)
    return torch.cat(found), lists
