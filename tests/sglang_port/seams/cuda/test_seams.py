"""The seams for CUDA against the installed SGLang: their targets are there, and do what is said without a GPU."""

import inspect
import pkgutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.layers.attention.dsa.dsa_topk_backend import DSATopKBackend, TopkTransformMethod

from sgl_indexcache.kernels.select import sorting
from sgl_indexcache.sglang_port import registry
from sgl_indexcache.sglang_port.base import BrokenSeamError, Hook
from sgl_indexcache.sglang_port.seams.cuda import indexer, topk

HOOKS = [hook for seam in registry.SEAMS if seam.devices == frozenset({"cuda"}) for hook in seam.hooks]


@pytest.mark.parametrize("hook", HOOKS, ids=[hook.target.rsplit(".", 1)[-1] for hook in HOOKS])
def test_every_target_is_there_with_its_parameters(hook: Hook) -> None:
    names = tuple(inspect.signature(pkgutil.resolve_name(hook.target)).parameters)
    assert hook.parameters is not None
    assert names[: len(hook.parameters)] == hook.parameters


def test_the_indexer_proof_fires_when_metadata_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.layers.attention.dsa.dsa_indexer_metadata import DSAIndexerMetadata

    assert "our indexer kernel" in indexer._probe()
    monkeypatch.delattr(DSAIndexerMetadata, "get_token_to_batch_idx")
    # The base class still has it, as something that returns nothing.
    monkeypatch.delattr(
        "sglang.srt.layers.attention.dsa.dsa_indexer_metadata.BaseIndexerMetadata.get_token_to_batch_idx"
    )
    with pytest.raises(BrokenSeamError, match="get_token_to_batch_idx does not exist"):
        indexer._probe()


# Two requests of 10 and 4 tokens, the last 3 and 2 of them in this forward; keys of both stand in one row of logits.
STARTS = torch.tensor([0, 0, 0, 10, 10], dtype=torch.int32)
LENGTHS = torch.tensor([8, 9, 10, 3, 4], dtype=torch.int32)
REQUEST = torch.tensor([0, 0, 0, 1, 1], dtype=torch.int32)
TABLE = torch.arange(100, 120, dtype=torch.int32).view(2, 10)


def transform(k: int, method: TopkTransformMethod, logits: torch.Tensor, **more: Any) -> torch.Tensor:
    metadata = SimpleNamespace(real_page_table=torch.zeros(2, 1), page_table_1=TABLE, token_to_batch_idx=REQUEST)

    def original(*arguments: Any) -> torch.Tensor:
        return torch.full((1, 1), -9)

    fields = {"row_starts": STARTS, "lengths": LENGTHS, **more}
    lengths = fields.pop("lengths")
    found: torch.Tensor = topk._topk_transform(
        original, DSATopKBackend("sgl-kernel"), logits, lengths, k, method, metadata, **fields
    )
    return found


@pytest.mark.parametrize("elements", [1, 30, 1 << 24])
def test_paged_selections_of_any_width_are_the_best_slots(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "SORTED_ELEMENTS", elements)
    logits = torch.randn(5, 14)
    found = transform(4, TopkTransformMethod.PAGED, logits)
    assert found.dtype == torch.int32
    for row in range(5):
        seen = logits[row, STARTS[row] : STARTS[row] + LENGTHS[row]]
        best = seen.topk(min(4, len(seen))).indices
        assert set(found[row].tolist()) - {-1} == set(TABLE[REQUEST[row], best].tolist())
        assert (found[row] >= 0).sum() == len(best)
        assert (found[row, : len(best)] >= 0).all(), "valid entries stand first, as FA3 wants them"


def test_ragged_selections_are_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(5, 14)
    paged = transform(4, TopkTransformMethod.PAGED, logits)
    ragged = transform(4, TopkTransformMethod.RAGGED, logits, topk_indices_offset=STARTS)
    assert torch.equal(ragged < 0, paged < 0)
    assert torch.equal((ragged + 100)[paged >= 0], paged[paged >= 0])


def test_a_chunk_of_rows_brings_its_own_requests() -> None:
    logits = torch.randn(2, 14)
    part = {"row_starts": STARTS[3:], "lengths": LENGTHS[3:], "batch_idx_list": REQUEST[3:]}
    found = transform(4, TopkTransformMethod.PAGED, logits, **part)
    assert set(found[0].tolist()) == {110, 111, 112, -1}


def test_equal_scores_go_to_the_lower_position() -> None:
    assert transform(4, TopkTransformMethod.PAGED, torch.zeros(5, 14))[2].tolist() == [100, 101, 102, 103]


def test_sglangs_kernels_keep_what_they_can_do() -> None:
    logits = torch.zeros(5, 14)
    assert transform(2048, TopkTransformMethod.PAGED, logits).item() == -9
    assert transform(4, TopkTransformMethod.PAGED, logits, force_unfused_topk=True).item() == -9
    decode = {"row_starts": None, "lengths": LENGTHS[:2]}
    assert transform(4, TopkTransformMethod.PAGED, logits[:2], **decode).item() == -9
