"""The parameters of a decoder layer, named and shaped as in published checkpoints: a state dict IS a checkpoint."""

from typing import Protocol

import torch
from torch import nn

from sgl_indexcache.distill.indexing import Indexer, IndexWidths


class Widths(IndexWidths, Protocol):
    """Widths of latent attention; the names are those of config.json."""

    @property
    def num_attention_heads(self) -> int: ...
    @property
    def kv_lora_rank(self) -> int: ...
    @property
    def qk_nope_head_dim(self) -> int: ...
    @property
    def v_head_dim(self) -> int: ...


class Attention(nn.Module):
    """Multi-head latent attention with its indexer; a Shared layer has no use for one."""

    def __init__(self, shape: Widths, indexer: bool = True) -> None:
        super().__init__()
        heads, hidden, rank = shape.num_attention_heads, shape.hidden_size, shape.kv_lora_rank
        nope, rope = shape.qk_nope_head_dim, shape.qk_rope_head_dim
        self.q_a_proj = nn.Linear(hidden, shape.q_lora_rank, bias=False)
        self.q_a_layernorm = nn.RMSNorm(shape.q_lora_rank)
        self.q_b_proj = nn.Linear(shape.q_lora_rank, heads * (nope + rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, rank + rope, bias=False)
        self.kv_a_layernorm = nn.RMSNorm(rank)
        self.kv_b_proj = nn.Linear(rank, heads * (nope + shape.v_head_dim), bias=False)
        self.o_proj = nn.Linear(heads * shape.v_head_dim, hidden, bias=False)
        if indexer:
            self.indexer = Indexer(shape)

    def weights_before(self, norm: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """In the order of functional.before_attention, which begins with the layer's input norm."""
        return (
            norm,
            self.q_a_proj.weight,
            self.q_a_layernorm.weight,
            self.q_b_proj.weight,
            self.kv_a_proj_with_mqa.weight,
            self.kv_a_layernorm.weight,
            self.kv_b_proj.weight,
        )


class Mlp(nn.Module):
    """The SwiGLU block."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.up_proj = nn.Linear(hidden, width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """gate, up, down."""
        return self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight
