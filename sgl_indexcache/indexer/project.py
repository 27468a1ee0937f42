"""Index queries, index key and head gates of a Full layer (SGLang's Indexer._get_q_k_bf16)."""

from collections.abc import Callable
from typing import Any, Protocol

import torch


class IndexerWeights(Protocol):
    """What this room needs of SGLang's `Indexer` module (layers/attention/dsa/dsa_indexer.py)."""

    n_heads: int
    head_dim: int
    rope_head_dim: int
    softmax_scale: float
    wq_b: Callable[[torch.Tensor], tuple[torch.Tensor, Any]]
    wk: Callable[[torch.Tensor], tuple[torch.Tensor, Any]]
    k_norm: Callable[[torch.Tensor], torch.Tensor]
    rotary_emb: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    weights_proj: Any


def index_key(layer: IndexerWeights, x: torch.Tensor) -> torch.Tensor:
    """Normalised index key `[T, D]` of hidden states `x [T, hidden]`, before rotary embedding."""
    return layer.k_norm(layer.wk(x)[0])


def project(
    layer: IndexerWeights, x: torch.Tensor, q_lora: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries `[T, H, D]`, key `[T, D]` (both in x's dtype) and float32 gates `[T, H]` of hidden states.

    x [T, hidden], q_lora [T, q_lora_rank], positions int64 [T]. Rotary embedding turns the first
    `rope_head_dim` columns. No Hadamard rotation and no fp8: both serve SGLang's CUDA kernels, and an
    orthogonal rotation of q and k leaves every score as it is. The gates hold H^-0.5 * D^-0.5.
    """
    rope = layer.rope_head_dim
    q = layer.wq_b(q_lora)[0].view(-1, layer.n_heads, layer.head_dim)
    k = index_key(layer, x)
    q_rope, k_rope = layer.rotary_emb(positions, q[..., :rope].contiguous(), k[:, None, :rope].contiguous())
    # In place: the queries are the largest activation of the layer, and both tensors are this call's own.
    q[..., :rope] = q_rope.view(-1, layer.n_heads, rope)
    k[:, :rope] = k_rope.view(-1, rope)
    gates = torch.nn.functional.linear(x.float(), layer.weights_proj.weight.float())
    return q, k, gates * (layer.n_heads**-0.5 * layer.softmax_scale)
