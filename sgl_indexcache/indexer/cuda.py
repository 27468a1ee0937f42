"""Exact selection on CUDA with our fused kernel, in the terms of SGLang's indexer and its metadata.

The same queries, gates and page-packed keys that SGLang hands to DeepGEMM (layers/attention/dsa/dsa_indexer.py),
read in place, and its three forms of a result: KV slots, offsets into the batch's flattened KV, or positions.
"""

from typing import Any

import torch

from sgl_indexcache.indexer.forms import Form


def select_rows(
    indexer: Any,
    queries: torch.Tensor,
    gates: torch.Tensor,
    index_k: torch.Tensor,
    page_table: torch.Tensor,
    request: torch.Tensor,
    lengths: torch.Tensor,
    *,
    max_length: int,
    form: Form,
    offsets: torch.Tensor | None,
    budget_bytes: int,
    out: torch.Tensor,
) -> None:
    """Write the selection int32 of the first R = len(lengths) rows into `out [T, k]`; later rows become -1.

    queries [T, H, 128] fp8; gates [T, H] or [T, H, 1] fp32 with all constants folded in; index_k uint8
    [pages, 64 * 132]; page_table int32 [B, P]; request and lengths int32 [R]; offsets int32 [R] for form "offsets".
    """
    from sgl_indexcache.kernels.score_select.cuda import score_select

    rows = lengths.shape[0]
    if rows < out.shape[0]:
        out[rows:].fill_(-1)
    if rows == 0:
        return
    score_select(
        queries[:rows],
        gates[:rows].reshape(rows, -1),
        index_k,
        page_table,
        request,
        lengths,
        out.shape[1],
        max_length=max_length,
        initial=indexer.num_init_tokens,
        local=indexer.num_local_tokens,
        names=page_table if form == "slots" else None,
        budget_bytes=budget_bytes,
        out=out[:rows],
    )
    if form == "offsets":
        assert offsets is not None
        shift(out[:rows], offsets)


def shift(selection: torch.Tensor, offsets: torch.Tensor) -> None:
    """Add `offsets` int32 [R] to a selection int32 [R, k] in place, but for its padding."""
    selection.copy_(torch.where(selection < 0, selection, selection + offsets.unsqueeze(1)))
