"""Attention of all queries a slice at a time: no matrix of all queries by all keys outlives its slice."""

import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sgl_indexcache.distill.indexing import selected, visible


def _slice(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    selection: torch.Tensor | None,
    rows: torch.Tensor,
    first: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """[B, h, R, value] of the queries q [B, h, R, d] at positions `rows` [R]."""
    if selection is None:
        mask = visible(rows.expand(len(q), -1), first, k.shape[2])
    else:
        mask = selected(selection, rows, first, k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], scale=scale)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    *,
    selection: torch.Tensor | None,
    first: torch.Tensor | None,
    rows: int,
) -> torch.Tensor:
    """Attention's result [B, h, T, value].

    q, k       [B, h, T, d]. v: [B, h, T, value].
    scale      of the products.
    selection  int32 [B, T, k] positions that each query attends to; None: all it sees.
    first      int64 [B, T] first position that each query sees; None: all of them from 0.
    rows       queries of a slice. Slices are computed again in backward, one at a time.
    """
    if selection is None and first is None:
        # The fast causal kernels want equal widths.
        wide, value = q.shape[-1], v.shape[-1]
        padded = F.pad(v, (0, max(0, wide - value)))
        if value <= wide:
            return F.scaled_dot_product_attention(q, k, padded, is_causal=True, scale=scale)[..., :value]
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    out = []
    again = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    for begin in range(0, q.shape[2], rows):
        part = slice(begin, begin + rows)
        arguments = (
            q[:, :, part],
            k,
            v,
            None if selection is None else selection[:, part],
            torch.arange(begin, min(begin + rows, q.shape[2]), device=q.device),
            None if first is None else first[:, part],
            scale,
        )
        out.append(checkpoint(_slice, *arguments, use_reentrant=False) if again else _slice(*arguments))
    return torch.cat(out, 2)
