"""The maths of one layer as functions of plain tensors, so that one compiled version serves all layers.

Rows are the tokens of a batch, flattened: N = batch * length. Formulas are those of transformers' `glm_moe_dsa`
and `deepseek_v32`, against which tests/distill and tests/nano check the logits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

EPSILON = 1e-6
"""Of the two latent norms and of the index keys' norm, where transformers fixes it; and of a layer unless said."""


class Rotary(NamedTuple):
    """cos and sin of the rotary angles, float32 [T, rope / 2], or [B, T, rope / 2] if sequences differ."""

    cos: torch.Tensor
    sin: torch.Tensor

    def rows(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for the flattened rows of `batch` sequences, [B * T, rope / 2]."""
        if self.cos.ndim == 3:
            return self.cos.flatten(0, 1), self.sin.flatten(0, 1)
        return self.cos.repeat(batch, 1), self.sin.repeat(batch, 1)


def at_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """x [B, T, W], or [T, W] for all sequences alike, at the positions `rows` int64 [B, R]: [B, R, W]."""
    if x.ndim == 2:
        return x[rows]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def widened(x: torch.Tensor) -> torch.Tensor:
    """x in float32, or as it is in float64 (tests)."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float = EPSILON) -> torch.Tensor:
    """Root-mean-square norm over the last dimension, in float32 inside; result in x's dtype."""
    wide = widened(x)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon) * weight).to(x.dtype)


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`x @ weight.T` in x's dtype, whatever the weight is kept in."""
    return F.linear(x, weight.to(x.dtype))


def rotary_table(length: int, width: int, theta: float, device: torch.device) -> torch.Tensor:
    """Angles [length, width / 2] float32, in radians: position times the frequency of each pair."""
    frequency = theta ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    return torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency


def rotate_pairs(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over neighbouring columns (2i, 2i + 1), as in MLA. x [..., W], cos [..., W / 2]."""
    even, odd = widened(x[..., 0::2]), widened(x[..., 1::2])
    # The halves are stacked, not interleaved again: queries and keys agree on it, and products are the same.
    return torch.cat((even * cos - odd * sin, odd * cos + even * sin), -1).to(x.dtype)


def rotate_halves(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding over columns (i, i + W / 2), as in the indexer. x [..., W], cos [..., W / 2]."""
    first, second = widened(x).chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def before_attention(
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    weights: tuple[torch.Tensor, ...],
    widths: tuple[int, int, int, int],
    dtype: torch.dtype,
    epsilon: float = EPSILON,
) -> tuple[torch.Tensor, ...]:
    """Everything of a layer that comes before attention: x, query latent, q, k, v.

    Shapes: x, the normed input, [N, hidden]; query latent [N, q_lora_rank]; q and k [N, heads, nope + rope];
    v [N, heads, value].

    hidden    residual stream float32 [N, hidden]
    cos, sin  float32 [N, rope / 2]
    weights   input norm, q_a, q_a norm, q_b, kv_a, kv_a norm, kv_b
    widths    heads, nope, rope, value
    dtype     of the matrix products and of all results
    epsilon   of the input norm
    """
    norm, q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b = weights
    heads, nope, rope, value = widths
    rows = hidden.shape[0]
    x = rms_norm(hidden, norm, epsilon).to(dtype)
    latent = rms_norm(linear(x, q_a), q_a_norm)
    q_nope, q_rope = torch.split(linear(latent, q_b).view(rows, heads, nope + rope), [nope, rope], -1)
    compressed, k_rope = torch.split(linear(x, kv_a), [kv_a.shape[0] - rope, rope], -1)
    pairs = linear(rms_norm(compressed, kv_a_norm), kv_b).view(rows, heads, nope + value)
    k_nope, v = torch.split(pairs, [nope, value], -1)
    q_rope = rotate_pairs(q_rope, cos[:, None], sin[:, None])
    # One rotary key for all heads (multi-query), as MLA caches it.
    k_rope = rotate_pairs(k_rope, cos, sin)[:, None].expand(-1, heads, -1)
    return x, latent, torch.cat((q_nope, q_rope), -1), torch.cat((k_nope, k_rope), -1), v.contiguous()


def swiglu(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The gated block `down(silu(gate x) * up x)`; x [..., hidden]."""
    return linear(F.silu(linear(x, gate)) * linear(x, up), down)


def after_attention(hidden: torch.Tensor, context: torch.Tensor, weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The rest of a dense layer: output projection, SwiGLU block, both residual sums; float32 [N, hidden].

    hidden   residual stream float32 [N, hidden], as it came into the layer.
    context  attention's result [N, heads * value].
    weights  o, post-attention norm, gate, up, down.
    """
    o, norm, gate, up, down = weights
    hidden = hidden + widened(linear(context, o))
    x = rms_norm(hidden, norm).to(context.dtype)
    return hidden + widened(swiglu(x, gate, up, down))


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
