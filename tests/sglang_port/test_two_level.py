"""Two-level scoring of a scheduler on the CPU: built to the size of its pool, or not at all."""

from types import SimpleNamespace
from typing import Any

from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Scoring, Settings
from sgl_indexcache.sglang_port import two_level

RUNNER: Any = SimpleNamespace(
    # As many slots as tokens, and SGLang's page of padding.
    token_to_kv_pool=SimpleNamespace(index_buf_size=10 * PAGE, page_size=PAGE, index_head_dim=32),
    model_config=SimpleNamespace(hf_text_config=SimpleNamespace(index_topk=48)),
)


def test_every_page_of_the_pool_has_a_record_of_every_full_layer() -> None:
    scoring = Scoring(mode="two_level", shortlist=384, window_pages=2, recall_floor=0.5, sample_rows=32)
    result = two_level.on_cpu(RUNNER, Pattern("FSFF"), Settings(scoring=scoring))
    assert result is not None
    assert result.records.summaries.shape == (3, 11, 36)
    assert result.layers == (0, 2, 3)
    rules = result.rules
    assert (rules.shortlist, rules.guard, rules.topk) == (Shortlist(384, 2), Guard(0.5, 32), 48)


def test_exact_scoring_has_none() -> None:
    assert two_level.on_cpu(RUNNER, Pattern("FSFF"), Settings()) is None
    assert two_level.on_cuda(RUNNER, Pattern("FSFF"), Settings()) == (None, None)
