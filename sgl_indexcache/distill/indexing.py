"""The lightning indexer in training: projections, exact scores, and the selection as an attention bias.

Score of query t against key s: I[t, s] = sum over heads h of w[t, h] * relu(q[t, h] . k[s]); the selection is
the top k over s <= t (the paper's first formula).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from sgl_indexcache.distill import functional
from sgl_indexcache.distill.functional import Rotary

Scorer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(q [B, R, H, D], k [B, S, D], gates float32 [B, R, H], first) -> float32 [B, R, S]; row r is the query at
position first + r, and keys after it score -inf."""

ROWS_PER_SLICE = 1024


class IndexWidths(Protocol):
    """Widths that an indexer needs; the names are those of config.json."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def q_lora_rank(self) -> int: ...
    @property
    def qk_rope_head_dim(self) -> int: ...
    @property
    def index_n_heads(self) -> int: ...
    @property
    def index_head_dim(self) -> int: ...


class Projected(NamedTuple):
    """An indexer's view of B sequences: R queries against T keys.

    q      index queries [B, R, H, D]
    k      index keys [B, T, D]
    gates  float32 [B, R, H], with the constants H^-0.5 and D^-0.5 folded in
    """

    q: torch.Tensor
    k: torch.Tensor
    gates: torch.Tensor

    def detach(self) -> "Projected":
        """The same without a gradient."""
        return Projected(self.q.detach(), self.k.detach(), self.gates.detach())

    def rows(self, rows: torch.Tensor) -> "Projected":
        """Only the queries at positions `rows`, int64 [B, R]."""
        q = self.q.gather(1, rows[..., None, None].expand(-1, -1, *self.q.shape[2:]))
        return Projected(q, self.k, functional.at_rows(self.gates, rows))


class Indexer(nn.Module):
    """The lightning indexer of a layer."""

    def __init__(self, shape: IndexWidths) -> None:
        super().__init__()
        self.heads, self.width, self.rope = shape.index_n_heads, shape.index_head_dim, shape.qk_rope_head_dim
        self.wq_b = nn.Linear(shape.q_lora_rank, self.heads * self.width, bias=False)
        self.wk = nn.Linear(shape.hidden_size, self.width, bias=False)
        self.k_norm = nn.LayerNorm(self.width, eps=functional.EPSILON)
        self.weights_proj = nn.Linear(shape.hidden_size, self.heads, bias=False)

    def forward(
        self, x: torch.Tensor, latent: torch.Tensor, rotary: Rotary, rows: torch.Tensor | None = None
    ) -> Projected:
        """Index queries, keys and gates; queries and keys in x's dtype.

        x       normed input [B, T, hidden].
        latent  query latent [B, T, q_lora_rank].
        rotary  of the T positions; it turns the first qk_rope_head_dim columns, in halves.
        rows    int64 [B, R] positions of the wanted queries; None wants all T.
        """
        cos, sin, rope = rotary.cos, rotary.sin, self.rope
        norm = self.k_norm
        k = functional.widened(functional.linear(x, self.wk.weight))
        k = F.layer_norm(k, norm.normalized_shape, norm.weight.to(k.dtype), norm.bias.to(k.dtype), norm.eps).to(x.dtype)
        k = torch.cat((functional.rotate_halves(k[..., :rope], cos, sin), k[..., rope:]), -1)
        if rows is not None:
            x, latent = functional.at_rows(x, rows), functional.at_rows(latent, rows)
            cos, sin = functional.at_rows(cos, rows), functional.at_rows(sin, rows)
        q = functional.linear(latent, self.wq_b.weight).view(*latent.shape[:2], self.heads, self.width)
        turned = functional.rotate_halves(q[..., :rope], cos.unsqueeze(-2), sin.unsqueeze(-2))
        q = torch.cat((turned, q[..., rope:]), -1)
        gates = functional.linear(functional.widened(x), self.weights_proj.weight)
        return Projected(q, k, gates * (self.heads * self.width) ** -0.5)


def select(projected: Projected, topk: int, scorer: Scorer, first: torch.Tensor | None = None) -> torch.Tensor:
    """The selections of all T queries, int32 [B, T, min(topk, T)]: the positions that score best, in no order.

    A query that sees fewer positions than topk has entries beyond what it sees (mask them by visibility), as
    `-inf` ties are all that is left.

    projected  of all T queries, without gradient.
    topk       size of a selection.
    scorer     computes the scores.
    first      int64 [B, T] first position that each query sees (its document's); None: all see from 0.
    """
    q, k, gates = projected
    batch, length = q.shape[:2]
    chosen = torch.empty(batch, length, min(topk, length), dtype=torch.int32, device=q.device)
    for begin in range(0, length, ROWS_PER_SLICE):
        end = min(length, begin + ROWS_PER_SLICE)
        scores = scorer(q[:, begin:end], k[:, :end], gates[:, begin:end], begin)
        if first is not None:
            before = torch.arange(end, device=q.device) < first[:, begin:end, None]
            scores = scores.masked_fill(before, float("-inf"))
        best = scores.topk(min(topk, end), dim=-1, sorted=False).indices
        chosen[:, begin:end, : best.shape[-1]] = best
        # The slice sees fewer keys than topk: what is left over names the last of all positions, which only the
        # last query sees, and that one selects it anyway.
        chosen[:, begin:end, best.shape[-1] :] = length - 1
    return chosen


def selected(selection: torch.Tensor, rows: torch.Tensor, first: torch.Tensor | None, keys: int) -> torch.Tensor:
    """bool [B, R, keys]: visible and selected positions of the queries at `rows` int64 [B, R] or [R].

    selection int32 [B, R, k] is theirs; first int64 [B, R] is the first position that each sees.
    """
    mask = torch.zeros(*selection.shape[:2], keys, dtype=torch.bool, device=selection.device)
    mask.scatter_(-1, selection.long(), True)
    return mask & visible(rows, first, keys)


def visible(rows: torch.Tensor, first: torch.Tensor | None, keys: int) -> torch.Tensor:
    """bool [..., keys]: what the queries at positions `rows` int64 [...] may see: from `first` to themselves."""
    position = torch.arange(keys, device=rows.device)
    mask = position <= rows[..., None]
    return mask if first is None else mask & (position >= first[..., None])


class SampledMask:
    """(begin, end) -> bool [B, end - begin, T], what the sampled queries begin..end may attend to."""

    def __init__(
        self, rows: torch.Tensor, first: torch.Tensor | None, selection: torch.Tensor | None, length: int
    ) -> None:
        self.rows, self.length = rows, length
        self.first = None if first is None else first.gather(1, rows)
        self.selection = None if selection is None else functional.at_rows(selection, rows)

    def __call__(self, begin: int, end: int) -> torch.Tensor:
        part = slice(begin, end)
        first = None if self.first is None else self.first[:, part]
        if self.selection is None:
            return visible(self.rows[:, part], first, self.length)
        return selected(self.selection[:, part], self.rows[:, part], first, self.length)


def selection_bias(projected: Projected, topk: int, scorer: Scorer, dtype: torch.dtype) -> torch.Tensor:
    """The selections of all T queries as a bias [B, 1, T, T] in `dtype`: 0 if selected, -inf if not.

    Exactly min(topk, t + 1) positions of query t are selected, ties included: indices are scattered, no
    threshold is compared.
    """
    length = projected.q.shape[1]
    selection = select(projected, topk, scorer)
    bias = torch.full((len(selection), 1, length, length), float("-inf"), dtype=dtype, device=selection.device)
    rows = torch.arange(length, device=selection.device)[:, None]
    # The first rows see fewer than topk keys: what was taken beyond them stays masked.
    zero_or_masked = torch.where(selection > rows, float("-inf"), 0.0).to(dtype)
    bias[:, 0].scatter_(-1, selection.long(), zero_or_masked)
    return bias
