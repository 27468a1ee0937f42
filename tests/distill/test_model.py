"""The distilled model is the served model, and its losses are the formulae taken on whole matrices."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sgl_indexcache.distill.checkpoint import Checkpoint, shapes_of
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.indexing import Projected, select, selected
from sgl_indexcache.distill.model import DsaModel, Layer, Mode
from sgl_indexcache.kernels.attention_kl import attention_distribution, divergence
from sgl_indexcache.kernels.score_causal.reference import score_causal
from sgl_indexcache.pattern import Pattern, read_config
from tests.distill.conftest import write_tiny

TOKENS = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(5))


def load(folder: Path, letters: str, dtype: torch.dtype = torch.float32) -> DsaModel:
    model = DsaModel(ModelConfig.of(read_config(folder)), Pattern(letters), dtype).to(dtype)
    checkpoint = Checkpoint(folder)
    checkpoint.check(shapes_of(model.state_dict().items()))
    checkpoint.load(model)
    return model


def oracle(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


def edited(source: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize("architecture", ["deepseek_v32", "glm_moe_dsa"])
def test_logits_equal_transformers(tmp_path: Path, architecture: str, moe: bool) -> None:
    folder = write_tiny(tmp_path / "model", architecture, moe)  # type: ignore[arg-type]
    letters = "FFFF"
    changes: dict[str, object] = {"n_group": 4, "topk_group": 2, "rms_norm_eps": 1e-5}
    if architecture == "glm_moe_dsa":
        letters = "FSFS"
        changes["index_topk_pattern"] = letters
    folder = edited(folder, tmp_path / "edited", **changes)
    model = load(folder, letters)
    sparse = model.logits(TOKENS, Mode(sparse=True, attention_rows=20))
    torch.testing.assert_close(sparse, oracle(folder), atol=2e-4, rtol=1e-4)
    assert not torch.allclose(sparse, model.logits(TOKENS, Mode()), atol=1e-2)


def test_yarn_equals_transformers(tmp_path: Path, tiny: Path) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
    yarn |= {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.7}
    folder = edited(tiny, tmp_path / "yarn", rope_parameters=yarn)
    torch.testing.assert_close(
        load(folder, "FFFF").logits(TOKENS, Mode(sparse=True)), oracle(folder), atol=3e-4, rtol=1e-4
    )


def test_a_packed_sequence_is_its_documents(tiny: Path) -> None:
    model = load(tiny, "FSSF")
    packed = torch.cat((TOKENS[0, :20], TOKENS[1, :28]))[None]
    first = torch.tensor([0] * 20 + [20] * 28)[None]
    for sparse in (False, True):
        mode = Mode(sparse=sparse, attention_rows=13)
        found = model.logits(packed, mode, first)
        torch.testing.assert_close(found[:, :20], model.logits(TOKENS[:1, :20], mode), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[:, 20:], model.logits(TOKENS[1:, :28], mode), atol=1e-4, rtol=1e-4)


def whole_loss(model: DsaModel, sparse: bool, cross_layer: bool) -> torch.Tensor:
    """The multi-layer loss over whole matrices, layer by layer, from what each layer hands on."""
    length = TOKENS.shape[1]
    rows = torch.arange(length).expand(2, -1)
    mode = Mode(sparse=sparse)
    handed = []
    hooks = [layer.register_forward_hook(lambda _, __, out: handed.append(out)) for layer in model.model.layers]
    model(TOKENS, mode, rows=rows, row_weights=torch.full((2, length), 1 / rows.numel(), dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    causal = torch.ones(length, length, dtype=torch.bool).tril().expand(2, -1, -1)
    total = torch.zeros((), dtype=torch.float64)
    edges = [*model.pattern.full_layers, len(model.pattern)]
    for begin, end in pairwise(edges):
        q, k, gates = handed[begin].projected
        scores = (torch.einsum("brhd,bsd->brhs", q, k).relu() * gates[..., None]).sum(2)
        seen = causal
        if sparse:
            chosen = scores.masked_fill(~causal, float("-inf")).topk(16, -1).indices
            seen = torch.zeros_like(causal).scatter(-1, chosen, True) & causal
        served = range(begin, end if cross_layer else begin + 1)
        for number in served:
            layer = model.model.layers[number]
            assert isinstance(layer, Layer)
            p = attention_distribution(handed[number].q, handed[number].k, seen, layer.scale)
            total = total + divergence(p, scores, seen).mean() / len(served)
    return total


@pytest.mark.parametrize("cross_layer", [True, False])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_loss_is_the_formula_and_both_forms_have_its_gradient(tiny: Path, sparse: bool, cross_layer: bool) -> None:
    model = load(tiny, "FSSF", torch.float64)
    names = [name for name, _ in model.named_parameters() if ".indexer." in name]
    indexers = [model.get_parameter(name) for name in names]
    wanted = whole_loss(model, sparse, cross_layer)
    gradient = torch.autograd.grad(wanted, indexers)
    rows = torch.arange(TOKENS.shape[1]).expand(2, -1)
    for form in ("sum", "mean"):
        losses = model(
            TOKENS,
            Mode(sparse=sparse, form=form, cross_layer=cross_layer, slice_rows=11),
            rows=rows,
            row_weights=torch.full(rows.shape, 1 / rows.numel(), dtype=torch.float64),
        )
        if form == "sum":
            torch.testing.assert_close(losses.kl.sum(), wanted)
        for name, one, other in zip(names, torch.autograd.grad(losses.kl.sum(), indexers), gradient, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
            assert other.abs().max() > 0


def test_indexers_learn_from_the_kl_alone_and_the_rest_from_the_lm_alone(tiny: Path) -> None:
    model = load(tiny, "FSFS", torch.float64)
    rows = torch.arange(TOKENS.shape[1]).expand(2, -1)
    weights = torch.full(rows.shape, 1 / rows.numel(), dtype=torch.float64)
    given = {"rows": rows, "row_weights": weights, "targets": TOKENS.roll(-1, 1), "target_weights": weights}
    losses = model(TOKENS, Mode(sparse=True, learn=True, attention_rows=20), **given)
    names, parameters = zip(*model.named_parameters(), strict=True)
    by_lm = torch.autograd.grad(losses.lm, parameters, allow_unused=True, retain_graph=True)
    by_kl = torch.autograd.grad(losses.kl.sum(), parameters, allow_unused=True)
    for name, lm, kl in zip(names, by_lm, by_kl, strict=True):
        assert (lm is None) == (".indexer." in name), name
        assert (kl is None) == (".indexer." not in name), name
    assert not any("layers.1.self_attn.indexer" in name for name in names), "a Shared layer has no indexer to train"


def test_selections_stay_within_documents_and_are_unique(tiny: Path) -> None:
    torch.manual_seed(0)
    projected = Projected(torch.randn(1, 40, 4, 8), torch.randn(1, 40, 8), torch.rand(1, 40, 4))
    first = torch.tensor([0] * 15 + [15] * 25)[None]
    chosen = select(projected, 6, score_causal, first)
    mask = selected(chosen, torch.arange(40)[None], first, 40)
    sizes = (torch.arange(40) - first + 1).clamp(max=6)
    assert torch.equal(mask.sum(-1), sizes)
    scores = score_causal(*projected, 0).masked_fill(torch.arange(40) < first[..., None], float("-inf"))
    for row in range(40):
        best = scores[0, row].topk(int(sizes[0, row])).values
        assert torch.equal(scores[0, row][mask[0, row]].sort(descending=True).values, best)
