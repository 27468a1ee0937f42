"""Two-level scoring in a server: what it cannot be served with, and its memory, taken before the first forward."""

import logging
from typing import TYPE_CHECKING, Any

from sgl_indexcache.kernels.shortlist import PAGE
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Scoring
from sgl_indexcache.sglang_port.base import Device
from sgl_indexcache.sglang_port.refusals import RefusedError

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

    from sgl_indexcache.indexer.two_level import TwoLevel

logger = logging.getLogger(__name__)

_EXACT = "or set scoring.mode: exact"


def check(args: Any, scoring: Scoring, device: Device, config: Any) -> None:
    """Raise RefusedError when SGLang's final ServerArgs or the model's config do not go with two-level scoring."""
    if scoring.mode != "two_level":
        return
    if device != "cpu":
        raise RefusedError("scoring.mode: two_level is not supported with CUDA yet: set scoring.mode: exact")
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


def build(model_runner: "ModelRunner", pattern: Pattern, scoring: Scoring) -> "TwoLevel | None":
    """Two-level scoring of this scheduler; None when scoring is exact."""
    if scoring.mode != "two_level":
        return None
    from sgl_indexcache.indexer.shortlist import Shortlist
    from sgl_indexcache.indexer.two_level import Guard, TwoLevel
    from sgl_indexcache.store.pages import Pages, page_bytes

    pool: Any = model_runner.token_to_kv_pool
    requests, positions = model_runner.req_to_token_pool.req_to_token.shape
    dim = pool.index_head_dim
    pages = Pages(pattern.full_layers, pool.index_buf_size + pool.page_size, dim, requests, positions)
    logger.info(
        f"page records for two-level scoring: {pages.pages} pages, {len(pattern.full_layers)} Full layers, "
        f"{pages.used_bytes / 2**20:.1f} MiB; {page_bytes(dim) / (PAGE * (dim + 4)):.1%} of fp8 index keys"
    )
    return TwoLevel(
        pages,
        Shortlist(scoring.shortlist, scoring.window_pages),
        Guard(scoring.recall_floor, scoring.sample_rows),
    )
