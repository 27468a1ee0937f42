"""Seam (CUDA): --enable-return-indexer-topk returns request-relative positions.

SGLang captures what its fused top-k hands to attention (state_capturer/indexer_topk.py): KV slots, which mean
nothing outside the server and differ between two runs of the same prompt. A slot belongs to one position for as
long as it is in use, whichever requests share it, so a table over slots, written by the forward that fills them,
turns slots back into positions.
"""

from typing import Any

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BACKEND_NAME, CUDA, Hook, Seam


def _remember(result: Any, backend: Any, forward_batch: Any, in_capture: bool = False) -> Any:
    """After the metadata of a forward: the positions of the slots that it fills.

    At the capture of a graph the table is made alone, so that the graph reads it.
    """
    table = _table(backend)
    if table is not None and not in_capture and forward_batch.out_cache_loc is not None:
        slots = forward_batch.out_cache_loc
        # A replayed graph's positions are padded.
        rows = min(slots.shape[0], forward_batch.positions.shape[0])
        table[slots[:rows]] = forward_batch.positions[:rows].to(table.dtype)
    return result


def _table(backend: Any) -> Any:
    """Position int32 of every slot, -1 if none was written; None where nothing is captured."""
    from sglang.srt.state_capturer.indexer_topk import get_global_indexer_capturer

    serving: Any = runtime.current.backend
    if get_global_indexer_capturer() is None or backend is not serving:
        return None
    if backend.position_of_slot is None:
        import torch

        pool = backend.token_to_kv_pool
        # One more page than the pool's size: SGLang's own padding page.
        backend.position_of_slot = torch.full(
            (pool.size + pool.page_size,), -1, dtype=torch.int32, device=backend.device
        )
    return backend.position_of_slot


def _capture(original: Any, capturer: Any, layer_id: int, topk_indices: Any) -> Any:
    """Around BaseTopkCapturer.capture: slots int32 `[T, k]` become positions, ascending, -1 padded at the end."""
    import torch
    from sglang.srt.state_capturer.indexer_topk import IndexerTopkCapturer

    backend: Any = runtime.current.backend
    table = None if backend is None else backend.position_of_slot
    if table is None or not isinstance(capturer, IndexerTopkCapturer):
        return original(capturer, layer_id, topk_indices)
    last = torch.iinfo(torch.int32).max
    positions = torch.where(topk_indices < 0, last, table[topk_indices.clamp(min=0).long()]).sort(dim=-1).values
    return original(capturer, layer_id, positions.masked_fill_(positions == last, -1))


SEAM = Seam(
    name="cuda-capture",
    purpose=f"return request-relative selections with --enable-return-indexer-topk under {BACKEND_NAME}",
    devices=CUDA,
    hooks=(
        Hook(
            "sglang.srt.layers.attention.dsa_backend.DeepseekSparseAttnBackend.init_forward_metadata",
            "after",
            _remember,
            parameters=("self", "forward_batch"),
        ),
        Hook(
            "sglang.srt.layers.attention.dsa_backend.DeepseekSparseAttnBackend.init_forward_metadata_out_graph",
            "after",
            _remember,
            parameters=("self", "forward_batch", "in_capture"),
        ),
        Hook(
            "sglang.srt.state_capturer.base.BaseTopkCapturer.capture",
            "around",
            _capture,
            parameters=("self", "layer_id", "topk_indices"),
        ),
    ),
)
