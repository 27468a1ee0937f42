"""What a user can get wrong at start-up: one sentence on stderr, exit code 2, nothing started."""

import json
from pathlib import Path

import pytest

from ..server import refusal

SITE = """
import importlib.metadata as metadata
real = metadata.version
metadata.version = lambda name: "0.5.23" if name == "sglang" else real(name)
"""


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("FSXSSS", ["X", "position 2"]),
        ("FSS", ["3", "6"]),
        ("SFFFFF", ["begins with S"]),
        ("fsssss", ["F"]),
    ],
    ids=["letter", "length", "first-letter", "lower-case"],
)
def test_patterns(pattern: str, words: list[str], model: Path) -> None:
    sentence = refusal("--model-path", str(model), "--pattern", pattern)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pattern:\tFS\n", ["tab", "line 1"]),
        ("pattern: FS\npattern: FF\n", ["pattern", "line 2"]),
        ("patern: FS\n", ["patern", "pattern"]),
        ("kernels: {scratch_mb: 3}\n", ["kernels.scratch_mb", "scratch_mib"]),
        ("- FS\n", []),
        ("pattern: [\n", []),
    ],
    ids=["tab", "duplicate", "unknown", "unknown-nested", "list", "syntax"],
)
def test_settings_files(text: str, words: list[str], model: Path, tmp_path: Path) -> None:
    file = tmp_path / "indexcache.yaml"
    file.write_text(text)
    sentence = refusal("--model-path", str(model), "--config", str(file))
    assert all(word in sentence for word in [*words, "indexcache.yaml"]), sentence


def test_a_missing_settings_file(model: Path) -> None:
    assert "nowhere.yaml" in refusal("--model-path", str(model), "--config", "nowhere.yaml")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "config.json" in refusal("--model-path", str(tmp_path))


def test_a_model_without_an_indexer(llama: Path) -> None:
    assert "index_topk" in refusal("--model-path", str(llama))


def test_another_sglang_version(model: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    sentence = refusal("--model-path", str(model), PYTHONPATH=str(tmp_path))
    assert "SGLang 0.5.23 found, 0.5.17 supported" in sentence
    assert "seam attention-backend" in sentence


def test_a_plugin_that_sglang_is_told_to_leave_out(model: Path) -> None:
    sentence = refusal("--model-path", str(model), SGLANG_PLUGINS="another")
    assert "seam attention-backend is not in force" in sentence
    assert "0.5.17 supported" in sentence


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--enable-hierarchical-cache"], "HiCache"),
        (["--decode-attention-backend", "torch_native"], "different attention backends"),
    ],
    ids=["hicache", "split"],
)
def test_refused_flags_stop_before_weights_load(flags: list[str], word: str, model: Path, tmp_path: Path) -> None:
    # The checkpoint has no weights: reading any would be another error.
    (tmp_path / "config.json").write_text((model / "config.json").read_text())
    assert word in refusal("--model-path", str(tmp_path), "--attention-backend", "indexcache", *flags)


def test_settings_that_contradict_the_backend(model: Path) -> None:
    sentence = refusal("--model-path", str(model), "--attention-backend", "torch_native", "--pattern", "1/2")
    assert "the attention backend is torch_native" in sentence


def test_a_pattern_that_contradicts_the_override(model: Path) -> None:
    override = json.dumps({"index_topk_freq": 3})
    sentence = refusal("--model-path", str(model), "--pattern", "FFFFFS", "--json-model-override-args", override)
    assert "contradicts" in sentence
