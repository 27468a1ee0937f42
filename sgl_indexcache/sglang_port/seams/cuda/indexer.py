"""Seam (CUDA): how Full layers score and select (layers/attention/dsa/dsa_indexer.py:726, :953).

Where our backend chose its own kernel, these two methods run it; everywhere else SGLang's are the callee. A prefill
whose selections the index store knows is not scored at all, only its index keys are stored; with two-level
scoring, rows that have a shortlist are scored among its keys. A model with fewer than 32 index heads is padded for
them in decode, as SGLang does itself in prefill (`_pad_heads_for_deep_gemm`): DeepGEMM's paged kernel takes 32 or 64
on Hopper.
"""

from typing import Any

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import CUDA, BrokenSeamError, Hook, Seam

DEEP_GEMM_LEAST_HEADS = 32


def _paged(
    original: Any, indexer: Any, forward_batch: Any, layer_id: int, q_fp8: Any, weights: Any, metadata: Any
) -> Any:
    """Around Indexer._get_topk_paged: int32 `[T, index_topk]` of a decode forward."""
    backend = runtime.current.backend
    if backend is not None and forward_batch.forward_mode.is_decode_or_idle():
        rows, two_level = q_fp8.shape[0], backend.two_level
        if two_level is not None and two_level.decode.serves(rows):
            given = backend.inputs("decode", indexer, q_fp8, weights, _index_k(indexer, layer_id), metadata)
            backend.kernels["decode", "indexer"] = "two_level"
            selection = _empty(indexer, q_fp8)
            two_level.decode.select(layer_id, given, slots=backend.terms(metadata).form == "slots", out=selection)
            return selection
        if backend.indexer_for("decode", rows) == "ours":
            return backend.select(
                "decode", indexer, q_fp8, weights, _index_k(indexer, layer_id), metadata, _empty(indexer, q_fp8)
            )
    q_fp8, weights = pad_heads(q_fp8, weights)
    return original(indexer, forward_batch, layer_id, q_fp8, weights, metadata)


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
    backend = runtime.current.backend
    if backend is None:
        return original(indexer, enable_dual_stream, forward_batch, layer_id, q_fp8, weights, metadata, topk_result)
    snapshots, two_level = backend.snapshots, backend.two_level
    known = snapshots is not None and snapshots.reads
    listed = two_level is not None and not known and two_level.shortlists(layer_id)
    ours = listed or backend.indexer_for("prefill", q_fp8.shape[0]) == "ours"
    given = None
    if two_level is not None and two_level.lists:
        given = backend.inputs("prefill", indexer, q_fp8, weights, _index_k(indexer, layer_id), metadata)
    out = topk_result if topk_result is not None or not (known or ours) else _empty(indexer, q_fp8)
    if given is not None and not listed:
        two_level.watch(layer_id, given)
    if two_level is not None and not known and not listed:
        two_level.count_exact()
    if known:
        return snapshots.read(layer_id, backend.terms(metadata), out)
    if listed:
        terms = backend.terms(metadata)
        backend.kernels["prefill", "indexer"] = "two_level"
        two_level.select(layer_id, given, form=terms.form, offsets=terms.offsets, out=out)
        selection = out
    elif ours:
        selection = backend.select("prefill", indexer, q_fp8, weights, _index_k(indexer, layer_id), metadata, out)
    else:
        selection = original(indexer, enable_dual_stream, forward_batch, layer_id, q_fp8, weights, metadata, out)
    if snapshots is not None and snapshots.writes:
        snapshots.write(layer_id, backend.terms(metadata), selection)
    return selection


def _index_k(indexer: Any, layer_id: int) -> Any:
    """The layer's page-packed index keys, uint8 `[pages, 64 * 132]`."""
    from sglang.srt.model_executor.forward_context import get_token_to_kv_pool

    return indexer._get_index_k_read_buffer(get_token_to_kv_pool(), layer_id)


def _empty(indexer: Any, queries: Any) -> Any:
    import torch

    return torch.empty((queries.shape[0], indexer.index_topk), dtype=torch.int32, device=queries.device)


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
