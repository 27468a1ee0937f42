"""The training model is the served model: same names, same logits as transformers, same selection."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sgl_indexcache.distill.indexing import Projected, selection_bias
from sgl_indexcache.kernels.score_causal.reference import score_causal
from sgl_indexcache.nano.layout import shapes_of
from sgl_indexcache.nano.model import NanoModel
from sgl_indexcache.nano.shape import NANO, TOY, NanoShape
from sgl_indexcache.nano.training.export import export
from sgl_indexcache.nano.training.initial import initialise


def random_model(shape: NanoShape, seed: int = 1) -> NanoModel:
    """Weights that are bf16-representable and none of them zero, as the export rounds to bf16."""
    model = NanoModel(shape)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter.bfloat16().float())
    return model.eval()


@pytest.mark.parametrize("shape", [NANO, TOY], ids=["nano", "toy"])
def test_names_and_shapes_are_the_checkpoints(shape: NanoShape) -> None:
    model = NanoModel(shape)
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == dict(shapes_of(shape.config()))


def test_the_trained_model_fits() -> None:
    count = sum(parameter.numel() for parameter in NanoModel(NANO).parameters())
    assert 4e6 <= count <= 6e6
    assert 2 * count <= 11.9e6


@pytest.mark.parametrize("topk", [4096, 16], ids=["dense", "sparse"])
def test_logits_equal_transformers(tmp_path: Path, topk: int) -> None:
    from transformers import AutoModelForCausalLM

    # 32 heads: with few, many scores are exactly zero and tie.
    shape = replace(TOY, index_topk=topk, index_n_heads=32)
    model = random_model(shape)
    export(model.state_dict(), shape, tmp_path / "model")
    oracle, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.randint(0, 259, (2, 200), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = oracle(tokens, use_cache=False).logits
        torch.testing.assert_close(model(tokens), expected, atol=2e-4, rtol=1e-4)
        if topk > 200:
            torch.testing.assert_close(model(tokens, sparse=False), expected, atol=2e-4, rtol=1e-4)
        else:
            assert not torch.allclose(model(tokens, sparse=False), expected, atol=1e-2)


def test_a_selection_has_exactly_k_entries_also_on_ties() -> None:
    q, k = torch.zeros(2, 50, 3, 8), torch.zeros(2, 50, 8)
    bias = selection_bias(Projected(q, k, torch.ones(2, 50, 3)), 7, score_causal, torch.float32)
    counts = (bias == 0).sum(-1)[:, 0]
    assert torch.equal(counts, torch.arange(1, 51).clamp(max=7).expand(2, -1))
    assert not (bias[:, 0] == 0).triu(1).any()
