"""Compiles what two-level scoring launches on CUDA before anybody waits for it.

Triton compiles a kernel when it is launched for the first time, which would be in the middle of somebody's first long
prompt: seven to nine seconds in all (docs/log.md). So a Full layer is run over prefills of zeros, of every
length and number of rows that takes kernels of its own: kernels differ by powers of two of either.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.select.cuda import BLOCK
from sgl_indexcache.kernels.shortlist import GROUP
from sgl_indexcache.selection import IndexerTerms, Inputs, TensorQueries, Terms

GROUPS = (1, 2, 4, 8)
"""Groups of rows, and samples of the guard, from which on the score kernel takes that many at a time."""


def warm_up(two_level: TwoLevel, indexer: IndexerTerms, heads: int, index_k: torch.Tensor, context: int) -> int:
    """Run prefills of up to `context` tokens through a Full layer; returns their number. Records end up empty.

    index_k uint8 [KV pages, 64 * (D + 4)] is a layer's, of which page 0 is read: SGLang's padding. `heads` are those of
    the indexer. No request may be running.
    """
    forwards = 0
    rules = two_level.rules
    two_level.rules = replace(rules, min_saved=0)
    for length, rows in _shapes(two_level, context):
        _run(two_level, indexer, heads, index_k, length, rows)
        forwards += 1
    two_level.rules = rules
    two_level.configure(two_level.layers)
    return forwards


def _shapes(two_level: TwoLevel, context: int) -> Iterator[tuple[int, int]]:
    """Lengths and numbers of last rows; lengths at which a row selects."""
    sampled, topk = two_level.rules.guard.every, two_level.rules.topk
    rows = sorted({GROUP * groups for groups in GROUPS} | {sampled * samples for samples in GROUPS} | {2})
    powers = [1 << bits for bits in range(context.bit_length())]
    # Between powers, too, and the longest row of which every block of keys is read: sizes round up from either side.
    lengths = {*powers, *(power + power // 2 for power in powers), topk * BLOCK, context}
    for length in sorted(lengths):
        if topk < length <= context:
            yield from ((length, some) for some in rows if some < length)


def _run(two_level: TwoLevel, indexer: IndexerTerms, heads: int, index_k: torch.Tensor, length: int, rows: int) -> None:
    device = index_k.device
    dim = index_k.shape[1] // PAGE - 4
    queries = torch.zeros(rows, heads, dim, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn)
    page_table = torch.zeros(1, -(-length // PAGE), dtype=torch.int32, device=device)
    inputs = Inputs(
        queries=TensorQueries(queries, torch.zeros(rows, heads, device=device)),
        index_k=index_k,
        page_table=page_table,
        request=torch.zeros(rows, dtype=torch.int32, device=device),
        lengths=torch.arange(length - rows + 1, length + 1, dtype=torch.int32, device=device),
        initial=indexer.num_init_tokens,
        local=indexer.num_local_tokens,
    )
    terms = Terms("slots", page_table)
    out = torch.empty(rows, two_level.rules.topk, dtype=torch.int32, device=device)
    two_level.begin([length], [rows], page_table, is_request=False)
    two_level.kernels.select(inputs, terms, out, rows=slice(0, rows), max_length=length)
    if two_level.lists:
        two_level.select(two_level.layers[0], inputs, terms, out)
