"""Reading and writing in the published layout, sharded files included."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sgl_indexcache.distill.checkpoint import INDEX, Checkpoint, shapes_of, write
from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.distill.model import DsaModel
from sgl_indexcache.pattern import Pattern, read_config

WQ = "model.layers.2.self_attn.indexer.wq_b.weight"


@pytest.fixture
def split(tiny: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint in two files with an index, bf16, with a layer for speculative decoding."""
    folder = tmp_path / "split"
    shutil.copytree(tiny, folder)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.4.eh_proj.weight"] = torch.ones(2, 2, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return folder


def test_what_is_written_is_the_source_but_for_what_was_trained(split: Path, tmp_path: Path) -> None:
    config = json.loads((split / "config.json").read_text()) | {"index_topk_freq": 2}
    (split / "config.json").write_text(json.dumps(config))
    source, out = Checkpoint(split), tmp_path / "out"
    new = torch.randn(source.shapes[WQ])
    write(source, {WQ: new}, Pattern("FSFS"), out)
    written = Checkpoint(out)
    assert written.where == source.where
    for name in source.files:
        before, after = load_file(split / name), load_file(out / name)
        for tensor in before:
            assert after[tensor].dtype == before[tensor].dtype
            wanted = new.bfloat16() if tensor == WQ else before[tensor]
            assert torch.equal(after[tensor], wanted), tensor
    result = json.loads((out / "config.json").read_text())
    assert result["index_topk_pattern"] == "FSFS"
    assert "index_topk_freq" not in result
    same = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", INDEX)
    assert all((out / name).read_bytes() == (split / name).read_bytes() for name in same)
    assert str(Pattern.of_config(result)) == "FSFS"


def test_transformers_loads_what_is_written(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = Checkpoint(tiny)
    new = torch.randn(source.shapes[WQ])
    write(source, {WQ: new}, Pattern("FSFS"), tmp_path / "out")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True, dtype=torch.float32)
    assert not info["missing_keys"]
    assert model.config.indexer_types == ["full", "shared", "full", "shared"]
    assert torch.equal(model.model.layers[2].self_attn.indexer.wq_b.weight, new)


def test_a_failed_write_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "there" / "out"
    out.parent.mkdir()
    with pytest.raises(AttributeError):
        write(Checkpoint(tiny), {WQ: None}, Pattern("FSFS"), out)  # type: ignore[dict-item]
    assert not list(out.parent.iterdir())


def test_read_into_a_model(split: Path) -> None:
    model = DsaModel(ModelConfig.of(read_config(split)), Pattern("FFFF"))
    given = {WQ: torch.full(Checkpoint(split).shapes[WQ], 0.5)}
    Checkpoint(split).load(model, given)
    assert bool((model.get_parameter(WQ) == 0.5).all())
    stored = load_file(split / Checkpoint(split).where["model.norm.weight"])["model.norm.weight"]
    assert torch.equal(model.model.norm.weight, stored.float())


def test_what_is_missing_is_named(tiny: Path, split: Path, tmp_path: Path) -> None:
    model = DsaModel(ModelConfig.of(read_config(tiny)), Pattern("FFFF"))
    wanted = shapes_of(model.state_dict().items())
    tensors = {n: t for n, t in load_file(tiny / "model.safetensors").items() if ".indexer." not in n}
    bare = tmp_path / "bare"
    bare.mkdir()
    save_file(tensors, bare / "model.safetensors")
    with pytest.raises(DistillError, match=r"no indexer weights model\.layers\.0"):
        Checkpoint(bare).check(wanted)
    with pytest.raises(DistillError, match=r"is \[64\] in the checkpoint but \[65\] by its config"):
        Checkpoint(tiny).check({"model.norm.weight": (65,)})
    with pytest.raises(DistillError, match="holds no safetensors"):
        Checkpoint(tmp_path)
    (split / "model-00001-of-00002.safetensors").write_bytes(b"broken")
    with pytest.raises(DistillError, match="cannot be read"):
        Checkpoint(split)
