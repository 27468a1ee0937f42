"""Index key, index queries and head gates of a Full layer (SGLang's Indexer._get_q_k_bf16)."""

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


def project_key(layer: IndexerWeights, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Index key `[T, D]`, normalised and rotated, of hidden states `x [T, hidden]` at `positions` int64 `[T]`.

    No Hadamard rotation and no fp8: both serve SGLang's CUDA kernels, and an orthogonal rotation of query and
    key leaves every score as it is.
    """
    rope = layer.rope_head_dim
    key = layer.k_norm(layer.wk(x)[0])
    turned = key[:, None, :rope].contiguous()
    # The embedding turns a query and a key at a time and may do so in place; this one is given twice.
    key[:, :rope] = layer.rotary_emb(positions, turned, turned.clone())[0].view(-1, rope)
    return key


def project_query(
    layer: IndexerWeights, x: torch.Tensor, q_lora: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index queries `[T, H, D]` in x's dtype and float32 head gates `[T, H]` of hidden states `x [T, hidden]`.

    q_lora [T, q_lora_rank], positions int64 [T]. Rotary embedding turns the first `rope_head_dim` columns. The
    gates hold H^-0.5 * D^-0.5.
    """
    rope = layer.rope_head_dim
    q = layer.wq_b(q_lora)[0].view(-1, layer.n_heads, layer.head_dim)
    turned = q[..., :rope].contiguous()
    # In place: the queries are the largest activation of the layer.
    q[..., :rope] = layer.rotary_emb(positions, turned, turned[:, :1].clone())[0].view(-1, layer.n_heads, rope)
    gates = torch.nn.functional.linear(x.float(), layer.weights_proj.weight.float())
    return q, gates * (layer.n_heads**-0.5 * layer.softmax_scale)
