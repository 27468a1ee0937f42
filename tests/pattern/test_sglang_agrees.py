"""The patterns mean what the installed SGLang does on every layer."""

import ast
import inspect
import os
import textwrap
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sglang.srt.configs import model_config

from sgl_indexcache.pattern import Pattern, PatternError, presets
from sgl_indexcache.pattern.config import DSA_ARCHITECTURES

counts = st.integers(1, 130)
numbers = st.integers(1, 140)


def config_of(layers: int, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(
        architectures=["DeepseekV32ForCausalLM"], index_topk=2048, num_hidden_layers=layers, **fields
    )


def letters_in_sglang(config: SimpleNamespace) -> str:
    layers = range(config.num_hidden_layers)
    return "".join("S" if model_config.dsa_layer_skips_topk(config, layer) else "F" for layer in layers)


@given(counts, numbers, st.none() | numbers)
def test_uniform(layers: int, freq: int, offset: int | None) -> None:
    config = config_of(layers, index_topk_freq=freq, index_skip_topk_offset=offset)
    assert str(Pattern.uniform(layers, freq, offset)) == letters_in_sglang(config)
    assert str(Pattern.of_config(config)) == letters_in_sglang(config)


@given(
    counts,
    st.fixed_dictionaries(
        {},
        optional={
            "index_topk_freq": st.none() | numbers,
            "index_skip_topk_offset": st.none() | numbers,
            "index_topk_pattern": st.none() | st.text("FS", min_size=1, max_size=130),
        },
    ),
)
def test_any_config(layers: int, fields: dict[str, Any]) -> None:
    if fields.get("index_topk_pattern") is not None:
        fields["index_topk_pattern"] = "F" + fields["index_topk_pattern"][1:]
        layers = len(fields["index_topk_pattern"])
    config = config_of(layers, **fields)
    expected = letters_in_sglang(config)
    assert str(Pattern.of_config(config)) == expected
    assert str(Pattern.of_config(vars(config))) == expected


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    pattern = Pattern.preset(name)
    assert letters_in_sglang(config_of(len(pattern), index_topk_pattern=str(pattern))) == str(pattern)


def test_sglang_is_silent_where_we_refuse() -> None:
    config = config_of(6, index_topk_pattern="FSS")
    assert letters_in_sglang(config) == "FSSFFF"
    with pytest.raises(PatternError):
        Pattern.of_config(config)


def test_architectures_are_those_of_sglang() -> None:
    source = textwrap.dedent(inspect.getsource(model_config.is_deepseek_dsa))
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    names = {value for value in constants if isinstance(value, str) and value[:1].isupper()}
    assert names == DSA_ARCHITECTURES
    for architecture in DSA_ARCHITECTURES:
        assert model_config.is_deepseek_dsa({"architectures": [architecture], "index_topk": 2048})
