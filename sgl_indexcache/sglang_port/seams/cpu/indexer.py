"""Seam (CPU): SGLang's Indexer raises off CUDA, HIP and NPU (dsa_indexer.py:1814); ours answers there."""

from typing import Any

from sgl_indexcache.sglang_port.base import CPU, Hook, Seam


def _forward(
    self: Any,
    x: Any,
    q_lora: Any,
    positions: Any,
    forward_batch: Any,
    layer_id: int,
    return_indices: bool = True,
) -> Any:
    """Selection int32 `[T, index_topk]` of a Full layer; also stores its index keys."""
    from sglang.srt.model_executor.forward_context import get_attn_backend
    from sglang.srt.state_capturer.indexer_topk import maybe_capture_indexer_topk

    selection = get_attn_backend().select(self, x, q_lora, positions, forward_batch, layer_id, return_indices)
    return maybe_capture_indexer_topk(layer_id, selection)


SEAM = Seam(
    name="cpu-indexer",
    purpose="run Full layers' indexers in torch",
    devices=CPU,
    hooks=(Hook("sglang.srt.layers.attention.dsa.dsa_indexer.Indexer.forward_native", "replace", _forward),),
)
