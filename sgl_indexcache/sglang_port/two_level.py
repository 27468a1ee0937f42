"""Two-level scoring in a server: what it cannot be served with; its memory and kernels, before the first forward."""

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Scoring, Settings
from sgl_indexcache.sglang_port.base import Device
from sgl_indexcache.sglang_port.refusals import RefusedError

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

    from sgl_indexcache.indexer.cuda.decode_lists import DecodeLists
    from sgl_indexcache.indexer.guard import Guard
    from sgl_indexcache.indexer.shortlist import Shortlist
    from sgl_indexcache.indexer.two_level import TwoLevel
    from sgl_indexcache.store.page_records import PageRecords

logger = logging.getLogger(__name__)

_EXACT = "or set scoring.mode: exact"


def check(args: Any, scoring: Scoring, device: Device, config: Any) -> None:
    """Raise RefusedError when SGLang's final ServerArgs or the model's config do not go with two-level scoring."""
    if scoring.mode != "two_level":
        return
    if device == "cuda" and args.disaggregation_mode not in (None, "null"):
        raise RefusedError(
            "scoring.mode: two_level is not supported with --disaggregation-mode, whose KV arrives without a forward: "
            "set scoring.mode: exact"
        )
    if device == "cuda" and scoring.decode_rows is not None and not isinstance(scoring.shortlist, int):
        raise RefusedError(
            "scoring.decode_rows needs shortlists of one size, but scoring.shortlist is a fraction: "
            "give it as a number of keys, such as 8128, or leave scoring.decode_rows out"
        )
    if args.page_size != PAGE:
        raise RefusedError(
            f"scoring.mode: two_level needs pages of {PAGE} tokens, not {args.page_size}: "
            f"use --page-size {PAGE}, {_EXACT}"
        )
    topk = config.index_topk
    if isinstance(scoring.shortlist, int) and scoring.shortlist < topk:
        raise RefusedError(
            f"scoring.shortlist is {scoring.shortlist} keys, but a selection of this model holds {topk} (index_topk): "
            f"set it to at least {topk}, {_EXACT}"
        )
    initial, local = (getattr(config, name, None) or 0 for name in ("index_init_tokens", "index_local_tokens"))
    if initial > PAGE or local > PAGE * scoring.window_pages:
        raise RefusedError(
            f"scoring.mode: two_level sees {PAGE} first and {PAGE * scoring.window_pages} last positions, but "
            f"the model wants {initial} and {local}: set scoring.window_pages higher, {_EXACT}"
        )


def on_cuda(
    model_runner: "ModelRunner", pattern: Pattern, settings: Settings
) -> "tuple[TwoLevel | None, DecodeLists | None]":
    """Two-level scoring of prefills and of decode steps in this scheduler; None when scoring is exact.

    Compiles what prefills launch.
    """
    if settings.scoring.mode != "two_level":
        return None, None
    import torch

    from sgl_indexcache.indexer.cuda.decode_lists import DecodeLists
    from sgl_indexcache.indexer.cuda.two_level import CudaKernels
    from sgl_indexcache.indexer.cuda.warm_up import warm_up
    from sgl_indexcache.indexer.two_level import TwoLevel
    from sgl_indexcache.kernels.select.cuda import MAX_K
    from sgl_indexcache.store.page_records import PageRecords

    pool: Any = model_runner.token_to_kv_pool
    index_k = pool.get_index_k_with_scale_buffer(pattern.full_layers[0])
    records = PageRecords(pattern.full_layers, index_k.shape[0], pool.index_head_dim, index_k.device)
    topk = model_runner.model_config.hf_text_config.index_topk
    budget_bytes = settings.kernels.scratch_mib << 20
    shortlist, guard = _parts(settings.scoring)
    shortlist = replace(shortlist, max_pages=MAX_K)
    two_level = TwoLevel(records, CudaKernels(budget_bytes), shortlist, guard, topk, settings.scoring.min_saved_scores)
    decode_lists = DecodeLists(records, shortlist, guard, topk, budget_bytes, settings.scoring.decode_rows)
    indexer = model_runner.model.model.layers[pattern.full_layers[0]].self_attn.indexer
    begin = time.monotonic()
    forwards = warm_up(two_level, indexer, indexer.n_heads, index_k, model_runner.model_config.context_len)
    torch.cuda.synchronize(index_k.device)
    logger.info(f"two-level kernels of {forwards} shapes of prefills are ready after {time.monotonic() - begin:.1f} s")
    _log(records)
    return two_level, decode_lists


def on_cpu(model_runner: "ModelRunner", pattern: Pattern, settings: Settings) -> "TwoLevel | None":
    """Two-level scoring of this scheduler, decoded rows included; None when scoring is exact."""
    if settings.scoring.mode != "two_level":
        return None
    from sgl_indexcache.indexer.cpu.two_level import CpuKernels
    from sgl_indexcache.indexer.two_level import TwoLevel
    from sgl_indexcache.store.page_records import PageRecords

    pool: Any = model_runner.token_to_kv_pool
    pages = (pool.index_buf_size + pool.page_size) // PAGE
    records = PageRecords(pattern.full_layers, pages, pool.index_head_dim, "cpu")
    topk = model_runner.model_config.hf_text_config.index_topk
    _log(records)
    return TwoLevel(records, CpuKernels(settings.kernels.scratch_mib << 20), *_parts(settings.scoring), topk)


def _parts(scoring: Scoring) -> "tuple[Shortlist, Guard]":
    from sgl_indexcache.indexer.guard import Guard
    from sgl_indexcache.indexer.shortlist import Shortlist

    return Shortlist(scoring.shortlist, scoring.window_pages), Guard(scoring.recall_floor, scoring.sample_rows)


def _log(records: "PageRecords") -> None:
    from sgl_indexcache.store.page_records import page_bytes

    logger.info(
        f"page records for two-level scoring: {records.pages} pages, {len(records.layers)} Full layers, "
        f"{records.used_bytes / 2**20:.1f} MiB; "
        f"{page_bytes(records.dim) / (PAGE * (records.dim + 4)):.1%} of fp8 index keys"
    )
