"""Seam (CUDA): selections of other widths than 2048 (layers/attention/dsa/dsa_topk_backend.py:78).

sgl-kernel's top-k for prefill asserts k = 2048, and so does SGLang's mapping of unfused selections to slots
(kernels/ops/attention/dsa/transform_index.py); only decode's fused kernel takes any k up to 2048. Models with
another `index_topk` therefore select here, in torch; all others run SGLang's kernels untouched.
"""

from typing import TYPE_CHECKING, Any

from sgl_indexcache.sglang_port.base import CUDA, Hook, Seam

if TYPE_CHECKING:
    import torch

SGL_KERNEL_WIDTH = 2048


def _topk_transform(
    original: Any,
    backend: Any,
    logits: "torch.Tensor",
    lengths: "torch.Tensor",
    topk: int,
    topk_transform_method: Any,
    attn_metadata: Any,
    cu_seqlens_q_topk: Any = None,
    topk_indices_offset: Any = None,
    row_starts: Any = None,
    batch_idx_list: Any = None,
    force_unfused_topk: bool = False,
) -> Any:
    """Around DSATopKBackend.topk_transform: int32 `[T, topk]` slots (paged) or flat offsets (ragged), -1 padded."""
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod

    rows = logits.shape[0]
    paged = topk_transform_method == TopkTransformMethod.PAGED
    by_request = row_starts is None and batch_idx_list is None and rows == attn_metadata.real_page_table.shape[0]
    if (
        topk == SGL_KERNEL_WIDTH
        or force_unfused_topk
        or not envs.SGLANG_DSA_FUSE_TOPK.get()
        or (backend.should_use_topk_v2() and paged and by_request and lengths.shape[0] == rows)
    ):
        return original(
            backend,
            logits,
            lengths,
            topk,
            topk_transform_method,
            attn_metadata,
            cu_seqlens_q_topk,
            topk_indices_offset,
            row_starts,
            batch_idx_list,
            force_unfused_topk,
        )
    from sgl_indexcache.kernels.select.sorting import select_sorted

    positions = select_sorted(logits, lengths, topk, row_starts)
    if not paged:
        return (positions + topk_indices_offset.unsqueeze(1)).masked_fill_(positions < 0, -1)
    requests = batch_idx_list if batch_idx_list is not None else attn_metadata.token_to_batch_idx
    table = attn_metadata.page_table_1
    if requests is None:
        slots = table.gather(1, positions.clamp(min=0).long())
    else:
        slots = table[requests.long().unsqueeze(1), positions.clamp(min=0).long()]
    return slots.masked_fill(positions < 0, -1)


SEAM = Seam(
    name="cuda-topk",
    purpose="select another number of keys than 2048",
    devices=CUDA,
    hooks=(
        Hook(
            "sglang.srt.layers.attention.dsa.dsa_topk_backend.DSATopKBackend.topk_transform",
            "around",
            _topk_transform,
            parameters=(
                "self",
                "logits",
                "lengths",
                "topk",
                "topk_transform_method",
                "attn_metadata",
                "cu_seqlens_q_topk",
                "topk_indices_offset",
                "row_starts",
                "batch_idx_list",
                "force_unfused_topk",
            ),
        ),
    ),
)
