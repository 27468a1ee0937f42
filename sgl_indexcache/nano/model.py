"""The model for training: parameters named and shaped as in the checkpoint, one forward for all stages.

The state dict IS the checkpoint: export saves it under these very names. Attention is computed unabsorbed
(keys and values of every head are made), which is cheaper in training; serving absorbs the projections.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from sgl_indexcache.distill import functional
from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.distill.indexing import Projected, Scorer, selection_bias
from sgl_indexcache.distill.parameters import Attention, Mlp
from sgl_indexcache.kernels.score_causal.reference import score_causal, weigh
from sgl_indexcache.nano.divergence import row_divergence
from sgl_indexcache.nano.shape import NanoShape
from sgl_indexcache.pattern import Pattern


class Projections(NamedTuple):
    """What a layer hands to attention and to its indexer; B sequences of length T."""

    x: torch.Tensor
    """normed input [B, T, hidden]"""
    latent: torch.Tensor
    """query latent [B, T, q_lora_rank]"""
    q: torch.Tensor
    """[B, heads, T, nope + rope]"""
    k: torch.Tensor
    v: torch.Tensor
    """[B, heads, T, value]"""


class Pieces(NamedTuple):
    """The functions of a layer, plain or compiled."""

    before: Callable[..., Any] = functional.before_attention
    after: Callable[..., Any] = functional.after_attention
    loss: Callable[..., Any] = functional.weighted_loss
    weigh: Callable[..., Any] = weigh


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: NanoShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size)
        self.mlp = Mlp(shape.hidden_size, shape.intermediate_size)

    def weights_before(self) -> tuple[torch.Tensor, ...]:
        """In the order of functional.before_attention."""
        return self.self_attn.weights_before(self.input_layernorm.weight)

    def weights_after(self) -> tuple[torch.Tensor, ...]:
        """In the order of functional.after_attention."""
        return (self.self_attn.o_proj.weight, self.post_attention_layernorm.weight, *self.mlp.weights())


class Decoder(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, shape: NanoShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size)


class NanoModel(nn.Module):
    """A dense-MLP `glm_moe_dsa`.

    dtype    of matrix products; the residual stream and the parameters stay float32
    scorer   computes index scores of all rows (plain torch, or the Triton kernel on a GPU)
    pattern  Shared layers attend to, and are measured against, the indexer of their producer. It takes effect when it
             is set; training begins all Full
    """

    def __init__(self, shape: NanoShape, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.pieces = Pieces()
        self.scorer: Scorer = score_causal
        self.pattern = Pattern("F" * shape.num_hidden_layers)
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self._tables: dict[int, Rotary] = {}

    def hidden(
        self, tokens: torch.Tensor, sparse: bool, rows: torch.Tensor | None = None, learn: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Residual stream after the last layer, float32 [B * T, hidden], and the indexers' divergences.

        These are float32 [layers, 3]: KL, entropy of attention's distribution, and the share of attention's mass on the
        indexer's top k (all zero without rows). Only KL has a gradient.

        tokens  int64 [B, T]
        sparse  attend to the selection of each layer's producer (k = index_topk), not to everything before
        rows    int64 [B, R] query positions on which each layer's KL is measured; None measures none
        learn   keep the graph of the backbone; False for the warm-up, where only indexers train
        """
        batch, length = tokens.shape
        rotary = self._rotary(length, tokens.device)
        with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
            stream = self.model.embed_tokens(tokens).view(batch * length, -1)
        measured: list[torch.Tensor] = []
        bias: torch.Tensor | None = None
        guess: Projected | None = None
        for layer, letter in zip(self.model.layers, self.pattern.letters, strict=True):
            assert isinstance(layer, Layer)
            with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
                parts = self._project(layer, stream, rotary, batch)
                if sparse and letter == "F":
                    bias = self._bias(layer, parts, rotary)
                context = self._attend(parts, bias)
                after = self.pieces.after(stream, context, layer.weights_after())
            if rows is not None:
                if letter == "F":
                    # The indexer learns from the model, the model never from the indexer (DSA).
                    guess = layer.self_attn.indexer(parts.x.detach(), parts.latent.detach(), rotary, rows)
                assert guess is not None
                measured.append(self._divergence(guess, parts, bias, rows))
            stream = after
        if not measured:
            return stream, torch.zeros(len(self.model.layers), 3, device=tokens.device)
        return stream, torch.stack(measured)

    def forward(self, tokens: torch.Tensor, sparse: bool = True) -> torch.Tensor:
        """Logits float32 [B, T, vocab]."""
        stream, _ = self.hidden(tokens, sparse)
        return self.logits(stream).view(*tokens.shape, -1)

    def logits(self, stream: torch.Tensor) -> torch.Tensor:
        """Logits float32 [N, vocab] of rows of the residual stream [N, hidden]."""
        x = functional.rms_norm(stream, self.model.norm.weight).to(self.dtype)
        return functional.linear(x, self.lm_head.weight).float()

    def loss(
        self, stream: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted mean loss and the unweighted loss of each row; see functional.weighted_loss."""
        losses: tuple[torch.Tensor, torch.Tensor] = self.pieces.loss(
            stream,
            self.model.norm.weight,
            self.lm_head.weight,
            targets.reshape(-1),
            weights.reshape(-1),
            self.dtype,
        )
        return losses

    def _rotary(self, length: int, device: torch.device) -> Rotary:
        if length not in self._tables or self._tables[length].cos.device != device:
            angles = functional.rotary_table(length, self.shape.qk_rope_head_dim, self.shape.rope_theta, device)
            self._tables[length] = Rotary(angles.cos(), angles.sin())
        return self._tables[length]

    def _project(self, layer: Layer, stream: torch.Tensor, rotary: Rotary, batch: int) -> Projections:
        s = self.shape
        widths = (s.num_attention_heads, s.qk_nope_head_dim, s.qk_rope_head_dim, s.v_head_dim)
        cos, sin = rotary.rows(batch)
        x, latent, q, k, v = self.pieces.before(stream, cos, sin, layer.weights_before(), widths, self.dtype)
        rows = (batch, -1)
        q, k, v = (each.view(*rows, *each.shape[1:]).transpose(1, 2) for each in (q, k, v))
        return Projections(x.view(*rows, x.shape[-1]), latent.view(*rows, latent.shape[-1]), q, k, v)

    def _bias(self, layer: Layer, parts: Projections, rotary: Rotary) -> torch.Tensor:
        """[B, 1, T, T] in the model's dtype: 0 at the selected positions, -inf elsewhere."""
        with torch.no_grad():
            projected = layer.self_attn.indexer(parts.x, parts.latent, rotary)
            return selection_bias(projected, self.shape.index_topk, self.scorer, self.dtype)

    def _attend(self, parts: Projections, bias: torch.Tensor | None) -> torch.Tensor:
        """Attention's result [B * T, heads * value]; causal, or with the selection's bias."""
        q, k, v = parts.q, parts.k, parts.v
        value, wide = v.shape[-1], q.shape[-1]
        if bias is None:
            # The fast causal kernel wants equal widths.
            v = F.pad(v, (0, wide - value))
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=wide**-0.5)[..., :value]
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=wide**-0.5)
        return out.transpose(1, 2).reshape(-1, q.shape[1] * value)

    def _divergence(
        self, guess: Projected, parts: Projections, bias: torch.Tensor | None, rows: torch.Tensor
    ) -> torch.Tensor:
        scores = self.pieces.weigh(torch.matmul(guess.q.flatten(1, 2), guess.k.mT), guess.gates)
        return row_divergence(scores, parts.q.detach(), parts.k.detach(), rows, bias, self.shape.index_topk)
