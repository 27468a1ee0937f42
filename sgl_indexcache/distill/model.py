"""The model that is distilled: the forward of both families, and the two stages' losses.

Attention is computed unabsorbed (keys and values of every head are made). Parameters are named as in the
checkpoint; a layer is the unit of sharding and of gradient checkpointing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from sgl_indexcache.distill import functional, rope
from sgl_indexcache.distill.attend import attend
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.experts import Experts
from sgl_indexcache.distill.functional import Rotary
from sgl_indexcache.distill.indexing import Projected, SampledMask, Scorer, select
from sgl_indexcache.distill.parameters import Attention, Mlp
from sgl_indexcache.distill.plan import Form
from sgl_indexcache.kernels import attention_kl as kl
from sgl_indexcache.kernels.score_causal.reference import score_causal
from sgl_indexcache.pattern import Pattern

HEAD_ROWS = 4096
"""Rows whose logits over the vocabulary exist at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """How a forward runs; see plan.Plan.

    sparse   attention and KL on the selections
    learn    keep the backbone's graph and take the LM loss
    measure  also measure the mass of attention on the top k
    kernel   attention's distribution in Triton
    """

    sparse: bool = False
    learn: bool = False
    form: Form = "sum"
    cross_layer: bool = True
    slice_rows: int = 64
    attention_rows: int = 1024
    measure: bool = False
    kernel: bool = False
    scorer: Scorer = score_causal


class Losses(NamedTuple):
    """Per retained indexer, in order of layers, float32 [F]; sums of weight * value over the given queries.

    kl             the only one with a gradient to the indexers
    entropy, mass  of attention; mass is 0 unless measured
    lm             sum of weight * next-token loss, a number; 0 unless the mode learns
    """

    kl: torch.Tensor
    entropy: torch.Tensor
    mass: torch.Tensor
    lm: torch.Tensor


class Passed(NamedTuple):
    """What a layer hands on.

    stream     float32 [B * T, hidden]
    q, k       attention's, detached; q at the sampled rows
    projected  its indexer's; None from a Shared layer
    selection  int32 [B, T, k]; None if dense
    """

    stream: torch.Tensor
    q: torch.Tensor | None
    k: torch.Tensor | None
    projected: Projected | None
    selection: torch.Tensor | None


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: ModelConfig, number: int, full: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.full, self.dtype = config, full, dtype
        self.scale = rope.attention_scale(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size)
        self.self_attn = Attention(config, indexer=full)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size)
        self.mlp: Experts | Mlp
        if config.has_experts(number):
            self.mlp = Experts(config)
        else:
            self.mlp = Mlp(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        stream: torch.Tensor,
        rotary: Rotary,
        first: torch.Tensor | None,
        rows: torch.Tensor | None,
        selection: torch.Tensor | None,
        mode: Mode,
    ) -> Passed:
        """See Passed.

        rotary     of [B, T] positions
        first      int64 [B, T] or None, see data.Batch
        rows       int64 [B, R] of the sampled queries; None where no KL is taken
        selection  of the layers before
        """
        projected = None
        if self.full and (mode.sparse or rows is not None):
            # The indexer learns from the model, the model never from the indexer (DSA).
            with torch.no_grad():
                x, latent = self._index_inputs(stream, len(rotary.cos))
            projected = self.self_attn.indexer(x, latent, rotary, None if mode.sparse else rows)
            if mode.sparse:
                with torch.no_grad():
                    selection = select(projected.detach(), self.config.index_topk, mode.scorer, first)
        arguments = (stream, rotary, first, selection, rows, mode)
        if mode.learn and torch.is_grad_enabled():
            stream, q, k = checkpoint(self._backbone, *arguments, use_reentrant=False)
        else:
            with torch.no_grad():
                stream, q, k = self._backbone(*arguments)
        return Passed(stream, q, k, projected, selection)

    def _index_inputs(self, stream: torch.Tensor, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        a = self.self_attn
        x = functional.rms_norm(stream, self.input_layernorm.weight, self.config.rms_norm_eps).to(self.dtype)
        latent = functional.rms_norm(functional.linear(x, a.q_a_proj.weight), a.q_a_layernorm.weight)
        return x.view(batch, -1, x.shape[-1]), latent.view(batch, -1, latent.shape[-1])

    def _backbone(
        self,
        stream: torch.Tensor,
        rotary: Rotary,
        first: torch.Tensor | None,
        selection: torch.Tensor | None,
        rows: torch.Tensor | None,
        mode: Mode,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        c, batch = self.config, len(rotary.cos)
        widths = (c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim)
        _, _, q, k, v = functional.before_attention(
            stream,
            *rotary.rows(batch),
            self.self_attn.weights_before(self.input_layernorm.weight),
            widths,
            self.dtype,
            c.rms_norm_eps,
        )
        q, k, v = (each.view(batch, -1, *each.shape[1:]).transpose(1, 2) for each in (q, k, v))
        context = attend(q, k, v, self.scale, selection=selection, first=first, rows=mode.attention_rows)
        context = context.transpose(1, 2).flatten(2).flatten(0, 1)
        stream = stream + functional.widened(functional.linear(context, self.self_attn.o_proj.weight))
        x = functional.rms_norm(stream, self.post_attention_layernorm.weight, c.rms_norm_eps).to(self.dtype)
        block = self.mlp(x) if isinstance(self.mlp, Experts) else functional.swiglu(x, *self.mlp.weights())
        stream = stream + functional.widened(block)
        if rows is None:
            return stream, None, None
        sampled = q.detach().gather(2, rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1]))
        return stream, sampled, k.detach()


class Decoder(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, config: ModelConfig, pattern: Pattern, dtype: torch.dtype) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Layer(config, number, letter == "F", dtype) for number, letter in enumerate(pattern.letters)
        )
        self.norm = nn.RMSNorm(config.hidden_size)


class DsaModel(nn.Module):
    """A `deepseek_v32` or `glm_moe_dsa` model under a pattern.

    config   of the checkpoint.
    pattern  as many letters as layers.
    dtype    of matrix products; the residual stream stays float32.
    """

    def __init__(self, config: ModelConfig, pattern: Pattern, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.pattern, self.dtype = config, pattern, dtype
        self.model = Decoder(config, pattern, dtype)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        tokens: torch.Tensor,
        mode: Mode,
        *,
        first: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        row_weights: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        target_weights: torch.Tensor | None = None,
    ) -> Losses:
        """The losses of B sequences of T tokens.

        tokens                   int64 [B, T].
        mode                     which stage's losses, and how.
        first                    int64 [B, T] first token of each token's document; None: each sequence is one document.
        rows, row_weights        int64 and float [B, R], the queries of the KL and their weights; None takes no KL.
        targets, target_weights  int64 and float [B, T]; needed when the mode learns.
        """
        stream, losses = self._run(tokens, mode, first, rows, row_weights)
        lm = torch.zeros((), device=tokens.device)
        if mode.learn:
            assert targets is not None
            assert target_weights is not None
            lm = self._lm_loss(stream, targets.flatten(), target_weights.flatten())
        if not losses:
            nothing = stream.new_zeros(0)
            return Losses(nothing, nothing, nothing, lm)
        values, figures = (torch.stack(each) for each in zip(*losses, strict=True))
        return Losses(values, figures[:, 0], figures[:, 1], lm)

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor, mode: Mode, first: torch.Tensor | None = None) -> torch.Tensor:
        """Logits float [B, T, vocabulary], for tests; see forward."""
        stream, _ = self._run(tokens, mode, first, None, None)
        return self._head(stream).view(*tokens.shape, -1)

    def _run(
        self,
        tokens: torch.Tensor,
        mode: Mode,
        first: torch.Tensor | None,
        rows: torch.Tensor | None,
        row_weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """The residual stream after the last layer, and loss and figures of every retained indexer."""
        batch, length = tokens.shape
        position = torch.arange(length, device=tokens.device).expand(batch, -1)
        rotary = rope.rotary(self.config, position if first is None else position - first)
        with torch.set_grad_enabled(mode.learn and torch.is_grad_enabled()):
            # The stream is kept wide whatever the parameters are kept in.
            stream = functional.widened(self.model.embed_tokens(tokens)).flatten(0, 1)
        losses: list[tuple[torch.Tensor, torch.Tensor]] = []
        guess: Projected | None = None
        group: list[kl.Attention] = []
        selection = None
        for number, layer in enumerate(self.model.layers):
            passed: Passed = layer(stream, rotary, first, rows, selection, mode)
            stream, selection = passed.stream, passed.selection
            if rows is None:
                continue
            assert row_weights is not None
            assert passed.q is not None
            assert passed.k is not None
            if passed.projected is not None:
                guess = passed.projected.rows(rows) if mode.sparse else passed.projected
                group = []
            members = self.pattern.served_by(self.pattern.producer(number))
            group.append(kl.Attention(passed.q, passed.k, rope.attention_scale(self.config)))
            if not mode.cross_layer:
                members = members[:1]
            if number not in members or (mode.form == "mean" and number != members[-1]):
                continue
            assert guess is not None
            terms = group if mode.form == "mean" else group[-1:]
            loss, figures = kl.attention_kl(
                kl.Guess(*guess),
                terms,
                SampledMask(rows, first, selection, length),
                row_weights,
                topk=self.config.index_topk if mode.measure else None,
                rows=mode.slice_rows,
                kernel=mode.kernel,
            )
            if mode.form == "sum":
                loss, figures = loss / len(members), figures / len(members)
                if number != members[0]:
                    before = losses.pop()
                    loss, figures = loss + before[0], figures + before[1]
                group = []
            losses.append((loss, figures))
        return stream, losses

    def _head(self, stream: torch.Tensor) -> torch.Tensor:
        x = functional.rms_norm(stream, self.model.norm.weight, self.config.rms_norm_eps).to(self.dtype)
        return functional.widened(functional.linear(x, self.lm_head.weight))

    def _lm_loss(self, stream: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        def loss(part: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return (F.cross_entropy(self._head(part), ids, reduction="none") * weight).sum()

        total = stream.new_zeros(())
        for parts in zip(*(torch.split(each, HEAD_ROWS) for each in (stream, targets, weights)), strict=True):
            total = total + checkpoint(loss, *parts, use_reentrant=False)
        return total
