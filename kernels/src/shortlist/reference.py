"""Two-level scoring, the formula. A page is 64 consecutive positions of a request.

    m[p]      = mean of the page's index keys, as fp8 e4m3 with one fp32 scale (amax / 448)
    J[t, p]   = sum_h  w[t, h] * relu( q[t, h] . m[p] )                  for the complete pages before row t's own
    L[t]      = the pages that are forced and the best by J, n in all    (choose_pages)
    I[t, s]   = sum_h  w[t, h] * relu( q[t, h] . k[s] )                  for the positions s of L[t] alone

    q          [T, H, D]          index queries
    w          [T, H]             head gates, all constants folded in (with fp8 queries their scales too)
    summaries  [pages, D + 4]     uint8, by KV page id: fp8 key, then its fp32 scale
    index_k    [pages, 64*(D+4)]  uint8, by KV page id: 64 fp8 keys, then 64 fp32 scales (SGLang's own layout)
    page_table [B, P]             int, KV page id of each page of a request
    request    [T]                int, row of page_table
    listed     [T, n]             int32, pages of the request, ascending, -1 padded at the end

The mean of the keys is scored by the very formula of a key: with ReLU the score of a mean is not the mean of the
scores, but on the trained model it ranks pages as well as that does (docs/results/store.md).
"""

import torch

from sgl_indexcache.kernels.score import score
from sgl_indexcache.kernels.select import select

PAGE = 64
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


def page_scores(
    q: torch.Tensor,
    w: torch.Tensor,
    summaries: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    pages: torch.Tensor,
) -> torch.Tensor:
    """Scores J float32 `[T, P]`; columns from `pages [T]` on, the complete pages of each row, are -inf."""
    out = torch.full((q.shape[0], page_table.shape[1]), float("-inf"), device=q.device)
    for row, (owner, count) in enumerate(zip(request.tolist(), pages.tolist(), strict=True)):
        means = unpack_summary(summaries[page_table[owner, :count].long()])
        out[row, :count] = score(q[row : row + 1].float(), means, w[row : row + 1])[0]
    return out


def choose_pages(scores: torch.Tensor, forced: torch.Tensor, pages: torch.Tensor, n: int) -> torch.Tensor:
    """Listed pages int32 `[T, n]`: the `forced` ones (bool [T, P]), then the best of `scores [T, P]`.

    Row t chooses among its first `pages[t]`, at least n; of equal scores the lower page wins. At most n are forced.
    Overwrites `scores`.
    """
    return select(scores.masked_fill_(forced, float("inf")), pages, n)


def listed_scores(
    q: torch.Tensor,
    w: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    listed: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Scores I float32 `[T, n * 64]` of the listed pages' keys; -inf past `lengths [T]` and for -1 in `listed`."""
    rows, n = listed.shape
    dim = q.shape[-1]
    out = torch.full((rows, n, PAGE), float("-inf"), device=q.device)
    for row in range(rows):
        found = listed[row][listed[row] >= 0].long()
        packed = index_k[page_table[request[row], found].long()]
        keys = packed[:, : PAGE * dim].contiguous().view(torch.float8_e4m3fn).view(-1, PAGE, dim).float()
        scale = packed[:, PAGE * dim :].contiguous().view(torch.float32)
        flat = (keys * scale.unsqueeze(-1)).view(-1, dim)
        out[row, : len(found)] = score(q[row : row + 1].float(), flat, w[row : row + 1]).view(-1, PAGE)
    seen = to_positions(torch.arange(n * PAGE, device=q.device).expand(rows, -1), listed) < lengths.unsqueeze(1)
    seen &= listed.ge(0).repeat_interleave(PAGE, 1)
    return out.view(rows, -1).masked_fill_(~seen, float("-inf"))


def to_positions(picks: torch.Tensor, listed: torch.Tensor) -> torch.Tensor:
    """Positions, in `picks`' dtype, of columns `picks [T, k]` of the listed pages' scores; -1 stays -1."""
    page = listed.gather(1, (picks.clamp(min=0) // PAGE).long())
    return torch.where(picks < 0, -1, page * PAGE + picks % PAGE).to(picks.dtype)
