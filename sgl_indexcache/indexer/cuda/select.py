"""Exact selection on CUDA with our fused kernel.

The same queries, gates and page-packed keys that SGLang hands to DeepGEMM (layers/attention/dsa/dsa_indexer.py),
read in place, and its three forms of a result.
"""

import torch

from sgl_indexcache.indexer.forms import shift
from sgl_indexcache.selection import Inputs, Terms


def select(
    inputs: Inputs,
    terms: Terms,
    out: torch.Tensor,
    *,
    rows: slice | None = None,
    max_length: int,
    budget_bytes: int,
) -> None:
    """Write the selections of `rows` into those rows of `out` int32 [>= T, k], in the form of `terms`.

    rows          None: all T of them, and rows of `out` behind them become -1
    max_length    bound of the rows' lengths, known to the host
    budget_bytes  bound of the scores that are alive at a time

    queries are float8_e4m3fn [R, H, 128], gates float32 [R, H] with all constants folded in.
    """
    from sgl_indexcache.kernels.score_select.cuda import score_select

    if rows is None:
        rows = slice(0, inputs.lengths.shape[0])
        if rows.stop < out.shape[0]:
            out[rows.stop :].fill_(-1)
    if rows.stop == rows.start:
        return
    queries, gates = inputs.queries(rows)
    score_select(
        queries,
        gates,
        inputs.index_k,
        inputs.page_table,
        inputs.request[rows],
        inputs.lengths[rows],
        out.shape[1],
        max_length=max_length,
        initial=inputs.initial,
        local=inputs.local,
        names=inputs.page_table if terms.form == "slots" else None,
        budget_bytes=budget_bytes,
        out=out[rows],
    )
    if terms.form == "offsets":
        assert terms.offsets is not None
        shift(out[rows], terms.offsets[rows])
