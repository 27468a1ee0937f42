"""Indexer score, the formula (DeepSeek-V3.2 technical report, eq. 1; IndexCache paper, section 2).

I[t, s] = sum_h  w[t, h] * relu( q[t, h] . k[s] )

q  [T, H, D]  index queries, any float dtype
k  [S, D]     index keys, any float dtype
w  [T, H]     head gates, float; the constants H^-0.5 and D^-0.5 are folded in by the caller
I  [T, S]     in the accumulation dtype: float64 when any input is float64, else float32
"""

import torch

from sgl_indexcache.kernels.layout import PAGE, unpack
from sgl_indexcache.kernels.precision import accumulation_dtype


def score(q: torch.Tensor, k: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Scores `[T, S]` of queries `q [T, H, D]` against keys `k [S, D]` with head gates `w [T, H]`.

    Causality, initial and local positions are the caller's: every key is scored.
    """
    wide = accumulation_dtype(q, k, w)
    products = torch.einsum("thd,sd->ths", q.to(wide), k.to(wide))
    return torch.einsum("th,ths->ts", w.to(wide), products.relu())


def score_paged(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    *,
    max_length: int,
    initial: int = 0,
    local: int = 0,
) -> torch.Tensor:
    """Scores float64 `[T, max_length]`: -inf past a row's length, +inf in its `initial` first, `local` last positions.

    q           [T, H, D], weights [T, H]
    index_k     pages of keys in either layout of layout.py
    page_table  int [B, P], pages of each request; request int [T] is each row's line in it
    lengths     int [T], keys that each row sees, at most max_length
    """
    out = torch.full((q.shape[0], max_length), float("-inf"), dtype=torch.float64, device=q.device)
    for row, length in enumerate(lengths.tolist()):
        pages = page_table[int(request[row]), : (length + PAGE - 1) // PAGE]
        keys = unpack(index_k, pages)[:length]
        out[row, :length] = score(q[row, None].double(), keys, weights[row, None])[0]
        out[row, : min(initial, length)] = float("inf")
        out[row, max(0, length - local) : length] = float("inf")
    return out
