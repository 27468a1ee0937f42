"""Index key, index queries and head gates of a Full layer (SGLang's Indexer._get_q_k_bf16)."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from sgl_indexcache.kernels.score.cpu import takes_onednn


class Rotary(Protocol):
    """What this room needs of SGLang's rotary embeddings (layers/rotary_embedding/base.py)."""

    cos_sin_cache: torch.Tensor
    """[positions, R]: cosines, then sines"""
    is_neox_style: bool
    """halves of the R columns are turned against each other, else neighbours"""


class IndexerWeights(Protocol):
    """What this room needs of SGLang's `Indexer` module (layers/attention/dsa/dsa_indexer.py)."""

    n_heads: int
    head_dim: int
    rope_head_dim: int
    softmax_scale: float
    wq_b: Any
    wk: Callable[[torch.Tensor], tuple[torch.Tensor, Any]]
    k_norm: Callable[[torch.Tensor], torch.Tensor]
    rotary_emb: Rotary
    weights_proj: Any


def rotate_(x: torch.Tensor, rotary: Rotary, positions: torch.Tensor) -> None:
    """Rotary embedding of `x [T, H, R]`, in place, at `positions` int64 `[T]`.

    The arithmetic is that of SGLang's RotaryEmbedding.forward_native (layers/rotary_embedding/base.py) with a
    third of its passes over memory: on a CPU that one took longer than the projection it follows.
    """
    cos, sin = rotary.cos_sin_cache.index_select(0, positions).to(x.dtype).unsqueeze(1).chunk(2, dim=-1)
    half = x.shape[-1] // 2
    first, second = (x[..., :half], x[..., half:]) if rotary.is_neox_style else (x[..., ::2], x[..., 1::2])
    turned = first * sin
    first.mul_(cos).sub_(second * sin)
    second.mul_(cos).add_(turned)


def project_key(layer: IndexerWeights, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Index key `[T, D]`, normalised and rotated, of hidden states `x [T, hidden]` at `positions` int64 `[T]`.

    No Hadamard rotation and no fp8: both serve SGLang's CUDA kernels, and an orthogonal rotation of query and
    key leaves every score as it is.
    """
    key = layer.k_norm(layer.wk(x)[0])
    rotate_(key[:, None, : layer.rope_head_dim], layer.rotary_emb, positions)
    return key


def project_query(
    layer: IndexerWeights,
    x: torch.Tensor,
    q_lora: torch.Tensor,
    positions: torch.Tensor,
    is_plain_matrix: Callable[[Any], bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Index queries `[T, H, D]` in x's dtype and float32 head gates `[T, H]` of hidden states `x [T, hidden]`.

    q_lora [T, q_lora_rank], positions int64 [T]. Rotary embedding turns the first `rope_head_dim` columns. The
    gates hold H^-0.5 * D^-0.5.

    is_plain_matrix  whether a linear layer of SGLang does nothing but multiply by its `weight [out, in]`
    """
    q = _multiply(layer.wq_b, q_lora, is_plain_matrix(layer.wq_b)).view(-1, layer.n_heads, layer.head_dim)
    rotate_(q[..., : layer.rope_head_dim], layer.rotary_emb, positions)
    gates = torch.nn.functional.linear(x.float(), layer.weights_proj.weight.float())
    return q, gates * (layer.n_heads**-0.5 * layer.softmax_scale)


def _multiply(linear: Any, x: torch.Tensor, is_plain: bool) -> torch.Tensor:
    """Product `[T, out]` of a linear layer of SGLang and `x [T, in]`.

    oneDNN's where the layer is nothing but a float32 matrix: it takes two thirds of the time of torch's. Every other
    layer (quantised, packed, with a bias, an adapter or a hook) multiplies by itself.
    """
    product: torch.Tensor
    if is_plain and takes_onednn(x, linear.weight):
        product = torch.ops.mkldnn._linear_pointwise(x, linear.weight, None, "none", [], "")
    else:
        product = linear(x)[0]
    return product
