"""The lightning indexer in training: projections, exact scores, and the selection as an attention bias.

Score of query t against key s: I[t, s] = sum over heads h of w[t, h] * relu(q[t, h] . k[s]); the selection is
the top k over s <= t (the paper's first formula).
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from sgl_indexcache.nano import functional
from sgl_indexcache.nano.functional import Rotary
from sgl_indexcache.nano.shape import NanoShape

Scorer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(q [B, R, H, D], k [B, S, D], gates float32 [B, R, H], first) -> float32 [B, R, S]; row r is the query at
position first + r, and keys after it score -inf."""

ROWS_PER_SLICE = 1024


class Indexer(nn.Module):
    """Parameters of the lightning indexer."""

    def __init__(self, shape: NanoShape) -> None:
        super().__init__()
        wide = shape.index_n_heads * shape.index_head_dim
        self.wq_b = nn.Linear(shape.q_lora_rank, wide, bias=False)
        self.wk = nn.Linear(shape.hidden_size, shape.index_head_dim, bias=False)
        self.k_norm = nn.LayerNorm(shape.index_head_dim, eps=functional.EPSILON)
        self.weights_proj = nn.Linear(shape.hidden_size, shape.index_n_heads, bias=False)


def index_projections(
    indexer: Indexer,
    x: torch.Tensor,
    latent: torch.Tensor,
    rotary: Rotary,
    shape: NanoShape,
    rows: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Index queries [B, R, H, D], index keys [B, T, D] (x's dtype) and gates float32 [B, R, H].

    Args:
        indexer: the layer's.
        x: normed input [B, T, hidden].
        latent: query latent [B, T, q_lora_rank].
        rotary: of T positions; it turns the first qk_rope_head_dim columns, in halves.
        shape: widths.
        rows: int64 [B, R] positions of the wanted queries; None wants all T.
    """
    cos, sin, rope = rotary.cos, rotary.sin, shape.qk_rope_head_dim
    norm = indexer.k_norm
    k = functional.linear(x, indexer.wk.weight).float()
    k = F.layer_norm(k, norm.normalized_shape, norm.weight, norm.bias, functional.EPSILON).to(x.dtype)
    k = torch.cat((functional.rotate_halves(k[..., :rope], cos, sin), k[..., rope:]), -1)
    if rows is not None:
        x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
        latent = latent.gather(1, rows[..., None].expand(-1, -1, latent.shape[-1]))
        cos, sin = cos[rows], sin[rows]
    q = functional.linear(latent, indexer.wq_b.weight)
    q = q.view(*latent.shape[:2], shape.index_n_heads, shape.index_head_dim)
    turned = functional.rotate_halves(q[..., :rope], cos.unsqueeze(-2), sin.unsqueeze(-2))
    q = torch.cat((turned, q[..., rope:]), -1)
    gates = F.linear(x.float(), indexer.weights_proj.weight.float())
    return q, k, gates * (shape.index_n_heads * shape.index_head_dim) ** -0.5


def score_causal(q: torch.Tensor, k: torch.Tensor, gates: torch.Tensor, first: int) -> torch.Tensor:
    """A Scorer in plain torch: any device, needs [B, R, H, S] of scratch memory."""
    scores = functional.weigh(torch.matmul(q.flatten(1, 2), k.mT), gates)
    position = torch.arange(first, first + q.shape[1], device=q.device)
    later = torch.arange(k.shape[1], device=q.device) > position[:, None]
    return scores.masked_fill(later, float("-inf"))


def selection_bias(
    q: torch.Tensor,
    k: torch.Tensor,
    gates: torch.Tensor,
    topk: int,
    scorer: Scorer,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The selections of all T queries as a bias [B, 1, T, T] in `dtype`: 0 if selected, -inf if not.

    Exactly min(topk, t + 1) positions of query t are selected, ties included: indices are scattered, no
    threshold is compared. q [B, T, H, D], k [B, T, D], gates [B, T, H].
    """
    batch, length = q.shape[:2]
    bias = torch.full((batch, 1, length, length), float("-inf"), dtype=dtype, device=q.device)
    for begin in range(0, length, ROWS_PER_SLICE):
        end = min(length, begin + ROWS_PER_SLICE)
        scores = scorer(q[:, begin:end], k[:, :end], gates[:, begin:end], begin)
        best = scores.topk(min(topk, end), dim=-1, sorted=False)
        # The first rows see fewer than topk keys: what was taken beyond them stays masked.
        zero_or_masked = torch.where(best.values == float("-inf"), float("-inf"), 0.0).to(dtype)
        bias[:, 0, begin:end].scatter_(-1, best.indices, zero_or_masked)
    return bias
