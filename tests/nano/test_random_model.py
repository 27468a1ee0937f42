"""The random checkpoints: one spec gives one model, and transformers reads every tensor of it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sgl_indexcache.errors import UserError
from sgl_indexcache.nano import tokenizer
from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.random_model import (
    MlaDims,
    RandomModelError,
    RandomModelSpec,
    write_random_model,
)

SMALL = RandomModelSpec(layers=2, index_n_heads=4, index_head_dim=32, hidden=32, heads=2)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_the_spec_alone_decides_every_byte(tmp_path: Path) -> None:
    first = digests(write_random_model(tmp_path / "a", SMALL))
    assert first == digests(write_random_model(tmp_path / "b", SMALL))
    assert set(first) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "random_model.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one = digests(write_random_model(tmp_path / "a", SMALL))
    two = digests(write_random_model(tmp_path / "b", replace(SMALL, seed=1)))
    assert {name for name in one if one[name] != two[name]} == {"model.safetensors", "random_model.json"}


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "deep" / "model", SMALL)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert write_random_model(folder, SMALL) == folder
    assert before == {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"], "no scratch folder is left behind"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert (write_random_model(tmp_path / "model", SMALL) / "config.json").exists()


def test_another_spec_or_foreign_files_are_never_overwritten(tmp_path: Path) -> None:
    folder = write_random_model(tmp_path / "model", SMALL)
    with pytest.raises(RandomModelError, match="another spec"):
        write_random_model(folder, replace(SMALL, seed=1))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(RandomModelError, match="not a random model"):
        write_random_model(foreign, SMALL)
    assert [file.name for file in foreign.iterdir()] == ["thesis.txt"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, max_length: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(tokenizer, "write_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        write_random_model(tmp_path / "model", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_both_dtypes_hold_the_same_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    wide = load_file(write_random_model(tmp_path / "a", SMALL) / "model.safetensors")
    slim = load_file(write_random_model(tmp_path / "b", replace(SMALL, dtype="bfloat16")) / "model.safetensors")
    assert wide.keys() == slim.keys()
    assert all((wide[name] == slim[name].float()).all() for name in wide)


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "moe"])
@pytest.mark.parametrize(
    ("architecture", "pattern"),
    [("deepseek_v32", None), ("glm_moe_dsa", None), ("glm_moe_dsa", "FSF")],
)
def test_transformers_loads_every_tensor(tmp_path: Path, architecture: str, pattern: str | None, moe: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    spec = RandomModelSpec(architecture=architecture, pattern=pattern, moe=moe, layers=3)  # type: ignore[arg-type]
    folder = write_random_model(tmp_path / "model", spec)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    # A Shared layer has no indexer in transformers; the checkpoint carries one for every layer.
    shared = tuple(
        f"model.layers.{layer}.self_attn.indexer." for layer, letter in enumerate(pattern or "") if letter == "S"
    )
    assert all(key.startswith(shared) for key in info["unexpected_keys"])
    with torch.no_grad():
        logits = model(torch.arange(100)[None], use_cache=False).logits
    assert logits.shape == (1, 100, 320)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ({"architecture": "llama"}, "llama"),
        ({"dtype": "float16"}, "float16"),
        ({"layers": 0}, "layers"),
        ({"index_topk": -1}, "index_topk"),
        ({"pattern": "FS"}, "2 letters"),
        ({"pattern": "SFFFFF"}, "F"),
        ({"mla": MlaDims(qk_rope_head_dim=33)}, "qk_rope_head_dim"),
        ({"mla": MlaDims(v_head_dim=0)}, "v_head_dim"),
        ({"index_head_dim": 16}, "index_head_dim"),
    ],
)
def test_a_bad_spec_is_refused_by_name(bad: dict[str, object], names: str) -> None:
    with pytest.raises(UserError, match=names):
        RandomModelSpec(**bad)  # type: ignore[arg-type]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    arguments = ["random-model", str(out), "--layers", "2"]
    assert main([*arguments, "--architecture", "glm_moe_dsa", "--pattern", "FS", "--moe"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["index_topk_pattern"]) == ("glm_moe_dsa", "FS")
    assert main([*arguments, "--pattern", "SS"]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_random_model(tmp_path_factory.mktemp("nano") / "model", SMALL))


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@example(" two  spaces , and . punctuation !\r\n\t")
@example("e\u0301 is not \u00e9")
@example("<s>not a turn</s>")
@example("\x00\x7f\u00ad")
def test_every_text_survives_the_round_trip(words, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = words.encode(text, add_special_tokens=False)
    assert words.decode(ids) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")))
def test_a_token_is_a_byte(words, text: str) -> None:  # type: ignore[no-untyped-def]
    assert bytes(words.encode(text, add_special_tokens=False)) == text.encode()


def test_special_tokens_and_chat(words) -> None:  # type: ignore[no-untyped-def]
    assert (words.bos_token_id, words.eos_token_id, words.pad_token_id, len(words)) == (256, 257, 258, 259)
    turn = words.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert turn == "<s>user\nhi</s><s>assistant\n"
    assert words.encode(turn, add_special_tokens=False)[0] == 256
