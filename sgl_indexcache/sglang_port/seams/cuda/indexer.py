"""Seam (CUDA): how Full layers score and select (layers/attention/dsa/dsa_indexer.py:726, :953).

Two doors: the backend decides how a Full layer selects (attention/cuda_selection.py), SGLang's own methods among the
ways. A model with fewer than 32 index heads is padded for them in decode, as SGLang does itself in prefill
(`_pad_heads_for_deep_gemm`): DeepGEMM's paged kernel takes 32 or 64 on Hopper.
"""

from typing import TYPE_CHECKING, Any, cast

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import CUDA, BrokenSeamError, Hook, Seam

if TYPE_CHECKING:
    from sgl_indexcache.attention.cuda import IndexCacheCudaBackend

DEEP_GEMM_LEAST_HEADS = 32


def _paged(
    original: Any, indexer: Any, forward_batch: Any, layer_id: int, q_fp8: Any, weights: Any, metadata: Any
) -> Any:
    """Around Indexer._get_topk_paged: int32 `[T, index_topk]` of a decode forward."""

    def sglangs(out: Any) -> Any:
        return original(indexer, forward_batch, layer_id, *pad_heads(q_fp8, weights), metadata)

    backend = _backend()
    if backend is None or not forward_batch.forward_mode.is_decode_or_idle():
        return sglangs(None)
    return backend.select_decode(_call(indexer, layer_id, q_fp8, weights, metadata, None, sglangs))


def _ragged(
    original: Any,
    indexer: Any,
    enable_dual_stream: bool,
    forward_batch: Any,
    layer_id: int,
    q_fp8: Any,
    weights: Any,
    metadata: Any,
    topk_result: Any = None,
) -> Any:
    """Around Indexer._get_topk_ragged: int32 `[T, index_topk]` of a prefill forward, in `topk_result` if given."""

    def sglangs(out: Any) -> Any:
        return original(indexer, enable_dual_stream, forward_batch, layer_id, q_fp8, weights, metadata, out)

    backend = _backend()
    if backend is None:
        return sglangs(topk_result)
    return backend.select_prefill(_call(indexer, layer_id, q_fp8, weights, metadata, topk_result, sglangs))


def _backend() -> "IndexCacheCudaBackend | None":
    return cast("IndexCacheCudaBackend | None", runtime.current.backend)


def _call(indexer: Any, layer_id: int, queries: Any, gates: Any, metadata: Any, out: Any, original: Any) -> Any:
    from sgl_indexcache.attention.cuda_selection import Call

    def keys() -> Any:
        from sglang.srt.model_executor.forward_context import get_token_to_kv_pool

        return indexer._get_index_k_read_buffer(get_token_to_kv_pool(), layer_id)

    return Call(layer_id, indexer, queries, gates, keys, metadata, out, original)


def pad_heads(q_fp8: Any, weights: Any) -> tuple[Any, Any]:
    """Queries `[T, H, D]` fp8 and gates `[T, H, 1]` with heads of zeros up to what DeepGEMM takes.

    A padded head's gate is zero, so it adds nothing to any score.
    """
    from torch.nn.functional import pad

    missing = DEEP_GEMM_LEAST_HEADS - q_fp8.shape[1]
    if missing <= 0:
        return q_fp8, weights
    return pad(q_fp8, (0, 0, 0, missing)), pad(weights, (0, 0, 0, missing))


def _probe() -> str:
    """What the backend reads of SGLang's metadata is there."""
    from dataclasses import fields

    from sglang.srt.layers.attention.dsa.dsa_indexer import Indexer
    from sglang.srt.layers.attention.dsa.dsa_indexer_metadata import DSAIndexerMetadata
    from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend, DSAMetadata

    needed = {
        Indexer: ("_get_index_k_read_buffer",),
        DSAIndexerMetadata: (
            "get_page_table_64",
            "get_seqlens_int32",
            "get_seqlens_expanded",
            "get_token_to_batch_idx",
        ),
        DeepseekSparseAttnBackend: (
            "_forward_fa3",
            "set_dsa_prefill_impl",
            "get_device_int32_arange",
            "init_forward_metadata_out_graph",
        ),
    }
    for owner, names in needed.items():
        for name in names:
            if not callable(getattr(owner, name, None)):
                raise BrokenSeamError(f"{owner.__name__}.{name} does not exist")
    for owner, name in (
        (DSAMetadata, "max_seq_len_k"),
        (DSAMetadata, "topk_indices_offset"),
        (DSAMetadata, "page_size"),
        (DSAIndexerMetadata, "topk_transform_method"),
        (DSAIndexerMetadata, "force_unfused_topk"),
    ):
        if name not in {field.name for field in fields(owner)}:
            raise BrokenSeamError(f"{owner.__name__} has no field {name}")
    return "our indexer kernel where it was chosen; index heads padded for DeepGEMM"


SEAM = Seam(
    name="cuda-indexer",
    purpose="run the chosen indexer kernel in Full layers",
    devices=CUDA,
    hooks=(
        Hook(
            "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer._get_topk_paged",
            "around",
            _paged,
            parameters=("self", "forward_batch", "layer_id", "q_fp8", "weights", "metadata"),
        ),
        Hook(
            "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer._get_topk_ragged",
            "around",
            _ragged,
            parameters=(
                "self",
                "enable_dual_stream",
                "forward_batch",
                "layer_id",
                "q_fp8",
                "weights",
                "metadata",
                "topk_result",
            ),
        ),
    ),
    probe=_probe,
)
