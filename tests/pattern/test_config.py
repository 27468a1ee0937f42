"""What a model's configuration asks for, and which configurations are refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sgl_indexcache.pattern import Pattern, PatternError, layer_count, read_config


def config_of(**fields: Any) -> dict[str, Any]:
    return {
        "architectures": ["DeepseekV32ForCausalLM"],
        "index_topk": 2048,
        "num_hidden_layers": 8,
    } | fields


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "FFFFFFFF"),
        ({"index_skip_topk_offset": 3}, "FFFFFFFF"),
        ({"index_topk_freq": 4}, "FFSSSFSS"),
        ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, "FFFSSSFS"),
        ({"index_topk_freq": None, "index_topk_pattern": None}, "FFFFFFFF"),
        ({"index_topk_pattern": "FSFSFSFS", "index_topk_freq": 4}, "FSFSFSFS"),
        ({"architectures": None}, "FFFFFFFF"),
        ({"cli_factor": 1}, "FFFFFFFF"),
    ],
)
def test_read(fields: dict[str, Any], expected: str) -> None:
    config = config_of(**fields)
    assert str(Pattern.of_config(config)) == expected
    assert str(Pattern.of_config(SimpleNamespace(**config))) == expected


def test_layers_of_the_caller_count() -> None:
    assert str(Pattern.of_config(config_of(index_topk_freq=2), layers=4)) == "FFSF"
    with pytest.raises(PatternError, match="has 8 letters but the model has 4 layers"):
        Pattern.of_config(config_of(index_topk_pattern="FSFSFSFS"), layers=4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"index_topk": None},
            "the model has no lightning indexer (its config has no index_topk): choose a model with DeepSeek "
            "Sparse Attention, such as DeepSeek-V3.2 or GLM-5",
        ),
        (
            {"num_hidden_layers": None},
            "the model's config has num_hidden_layers=None: it must be the number of layers",
        ),
        (
            {"num_hidden_layers": 0},
            "the model's config has num_hidden_layers=0: it must be the number of layers",
        ),
        (
            {"index_topk_pattern": "FSF"},
            "the pattern has 3 letters but the model has 8 layers: give exactly one letter for each layer",
        ),
        (
            {"index_topk_pattern": "FSFSFSFSFS"},
            "the pattern has 10 letters but the model has 8 layers: give exactly one letter for each layer",
        ),
        ({"index_topk_pattern": ""}, "the pattern is empty: give one letter, F or S, for each layer"),
        (
            {"index_topk_pattern": "SFFFFFFF"},
            "the pattern begins with S: layer 0 has no earlier layer to share with, so begin with F",
        ),
        (
            {"index_topk_pattern": ["full"] * 8},
            "the model's index_topk_pattern must be a string of F and S, but it is of type list",
        ),
        (
            {"index_topk_freq": 0},
            "the model's index_topk_freq must be an integer of at least 1, but it is 0",
        ),
        (
            {"index_topk_freq": 4, "index_skip_topk_offset": 0},
            "the model's index_skip_topk_offset must be an integer of at least 1, but it is 0",
        ),
        (
            {"cli_factor": 2},
            "the model's cli_factor=2 shares selections by a rule of its own, which overrides every pattern: "
            "serve this model without sgl_indexcache",
        ),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PatternError) as caught:
        Pattern.of_config(config_of(**fields))
    assert str(caught.value) == message


def test_another_mechanism_with_an_index_topk_is_refused() -> None:
    with pytest.raises(PatternError, match="the architecture DeepseekV4ForCausalLM is not one that SGLang"):
        layer_count(config_of(architectures=["DeepseekV4ForCausalLM"]))


def test_model_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of(index_topk_freq=2)), encoding="utf-8")
    assert str(Pattern.of_config(read_config(tmp_path))) == "FFSFSFSF"
    assert read_config(tmp_path / "config.json") == read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n"a": 1,\n}', "is not valid JSON at line 3"),
        (b"[1, 2]", "is not a model's config.json: it holds no JSON object"),
        (b"\xff\xfe{}", "is not a model's config.json: it holds no UTF-8 JSON object"),
        (b"[" * 200_000, "is not a model's config.json: it holds no UTF-8 JSON object"),
        (b"", "is not valid JSON at line 1"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PatternError) as caught:
        read_config(tmp_path)
    assert str(caught.value).startswith(f"{path} {message}")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PatternError, match=r"does not exist: name a model folder that holds a config\.json"):
        read_config(tmp_path)
    with pytest.raises(PatternError, match="cannot be read"):
        read_config(tmp_path / ("x" * 300))
