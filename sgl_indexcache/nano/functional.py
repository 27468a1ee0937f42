"""The maths of one layer as functions of plain tensors, so that one compiled version serves all layers.

Rows are the tokens of a batch, flattened: N = batch * length. Formulas are those of transformers'
`glm_moe_dsa`, against which tests/nano checks the logits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

EPSILON = 1e-6
"""Of every norm; transformers fixes it for the two latent norms."""


class Rotary(NamedTuple):
    """cos and sin of the rotary angles, float32 [T, rope / 2]."""

    cos: torch.Tensor
    sin: torch.Tensor

    def rows(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for the flattened rows of `batch` sequences."""
        return self.cos.repeat(batch, 1), self.sin.repeat(batch, 1)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, in float32 inside; result in x's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPSILON) * weight).to(x.dtype)


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T` in x's dtype, whatever the weight is kept in."""
    return F.linear(x, weight.to(x.dtype))


def rotary_table(length: int, width: int, theta: float, device: torch.device) -> torch.Tensor:
    """Angles [length, width / 2] float32, in radians: position times the frequency of each pair."""
    frequency = theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over neighbouring columns (2i, 2i + 1), as in MLA. x [..., W], cos [..., W / 2]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    # The halves are stacked, not interleaved again: queries and keys agree on it, and products are the same.
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), -1).to(x.dtype)


def rotate_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over columns (i, i + W / 2), as in the indexer. x [..., W], cos [..., W / 2]."""
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def before_attention(
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    widths: tuple[int, int, int, int],
    dtype: torch.dtype,
) -> tuple[torch.Tensor, ...]:
    """Everything of a layer that comes before attention.

    Args:
        hidden: residual stream float32 [N, hidden].
        cos, sin: float32 [N, rope / 2].
        weights: input norm, q_a, q_a norm, q_b, kv_a, kv_a norm, kv_b.
        widths: heads, nope, rope, value.
        dtype: of the matrix products and of all results.

    Returns:
        x [N, hidden] (normed input), query latent [N, q_lora_rank], q [N, heads, nope + rope], k (the same)
        and v [N, heads, value].
    """
    norm, q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b = weights
    heads, nope, rope, value = widths
    rows = hidden.shape[0]
    x = rms_norm(hidden, norm).to(dtype)
    latent = rms_norm(linear(x, q_a), q_a_norm)
    q_nope, q_rope = torch.split(linear(latent, q_b).view(rows, heads, nope + rope), [nope, rope], -1)
    compressed, k_rope = torch.split(linear(x, kv_a), [kv_a.shape[0] - rope, rope], -1)
    pairs = linear(rms_norm(compressed, kv_a_norm), kv_b).view(rows, heads, nope + value)
    k_nope, v = torch.split(pairs, [nope, value], -1)
    q_rope = rotate_pairs(q_rope, cos[:, None], sin[:, None])
    # One rotary key for all heads (multi-query), as MLA caches it.
    k_rope = rotate_pairs(k_rope, cos, sin)[:, None].expand(-1, heads, -1)
    return x, latent, torch.cat((q_nope, q_rope), -1), torch.cat((k_nope, k_rope), -1), v.contiguous()


def after_attention(hidden: torch.Tensor, context: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The rest of a layer: output projection, SwiGLU block, both residual sums; float32 [N, hidden].

    Args:
        hidden: residual stream float32 [N, hidden], as it came into the layer.
        context: attention's result [N, heads * value].
        weights: o, post-attention norm, gate, up, down.
    """
    o, norm, gate, up, down = weights
    hidden = hidden + linear(context, o).float()
    x = rms_norm(hidden, norm).to(context.dtype)
    return hidden + linear(F.silu(linear(x, gate)) * linear(x, up), down).float()


def weigh(products: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    """Index scores float32 [B, R, S]: rectified products [B, R * H, S] summed over heads by gates [B, R, H]."""
    batch, rows, heads = gates.shape
    rectified = products.view(batch, rows, heads, -1).float().relu()
    return (rectified * gates[..., None]).sum(2)


def weighted_loss(
    hidden: torch.Tensor,
    norm: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token loss: (mean weighted by `weights`, unweighted loss of each row [N]), in nats.

    hidden float32 [N, hidden]; targets int64 [N]; weights float32 [N], zero where nothing is learnt.
    """
    logits = linear(rms_norm(hidden, norm).to(dtype), head).float()
    each = F.cross_entropy(logits, targets, reduction="none")
    return (each * weights).sum() / weights.sum().clamp(min=1), each.detach()
