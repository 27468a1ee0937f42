"""What a user may write for a pattern."""

from typing import Any

import pytest

from sgl_indexcache.pattern import Pattern, PatternError, check_spec, resolve, trace
from sgl_indexcache.settings import UniformPattern


def config_of(layers: int = 8, **fields: Any) -> dict[str, Any]:
    return {"architectures": ["GlmMoeDsaForCausalLM"], "index_topk": 64, "num_hidden_layers": layers} | fields


@pytest.mark.parametrize(
    ("spec", "config", "expected", "source"),
    [
        (None, config_of(), "FFFFFFFF", "model config"),
        (None, config_of(index_topk_freq=4), "FFSSSFSS", "model config"),
        ("FSFSFSFS", config_of(index_topk_freq=4), "FSFSFSFS", "letters"),
        (" FSFSFSFS\n", config_of(), "FSFSFSFS", "letters"),
        ("1/4", config_of(), "FFSSSFSS", "uniform freq=4"),
        ("1/1", config_of(index_topk_freq=4), "FFFFFFFF", "uniform freq=1"),
        (UniformPattern(freq=4), config_of(), "FFSSSFSS", "uniform freq=4"),
        (UniformPattern(freq=4, offset=3), config_of(), "FFFSSSFS", "uniform freq=4 offset=3"),
        ("FS", None, "FS", "letters"),
    ],
)
def test_meanings(spec: Any, config: Any, expected: str, source: str) -> None:
    assert trace(spec, config) == (Pattern(expected), source)
    assert resolve(spec, config) == Pattern(expected)


def test_preset() -> None:
    assert resolve("30b-1/4", config_of(47)) == Pattern.preset("30b-1/4")
    assert trace("30b-1/4", None).source == "preset 30b-1/4"


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        (
            "30b-1/4",
            config_of(8),
            "the preset 30b-1/4 is for 47 layers (30B MoE with MLA and DSA) but the model has 8: choose "
            "another preset, or a uniform pattern such as 1/4",
        ),
        (
            "FSF",
            config_of(8),
            "the pattern has 3 letters but the model has 8 layers: give exactly one letter for each layer",
        ),
        (
            "30b-1/5",
            None,
            "there is no preset named '30b-1/5': did you mean 30b-1/8? (or write letters F and S, or 1/N for "
            "one Full layer in N)",
        ),
        ("1/4", None, "uniform freq=4 (the number of layers) depends on the model: name a model folder too"),
        (None, None, "the model's own pattern depends on the model: name a model folder too"),
        ("fsfs", None, "the pattern has the lower-case letter 'f' at position 0: write 'F'"),
        ("", None, "the pattern is empty: give one letter, F or S, for each layer"),
    ],
)
def test_refused(spec: Any, config: Any, message: str) -> None:
    with pytest.raises(PatternError) as caught:
        resolve(spec, config)
    assert str(caught.value) == message


@pytest.mark.parametrize("spec", ["1/0", "2/4", "1/-4", "1/4.0", "0", "glm5"])
def test_no_such_spec(spec: str) -> None:
    for config in (None, config_of()):
        with pytest.raises(PatternError, match="there is no preset named"):
            resolve(spec, config)
    with pytest.raises(PatternError, match="there is no preset named"):
        check_spec(spec)


@pytest.mark.parametrize("spec", ["1/4", "FSS", "glm5-1/2", " 1/2 "])
def test_specs_can_be_checked_before_a_model_is_known(spec: str) -> None:
    check_spec(spec)


def test_every_spec_needs_a_model_with_an_indexer() -> None:
    config = config_of(index_topk=None)
    for spec in (None, "FFFFFFFF", "1/4", "30b-1/4", UniformPattern(freq=2)):
        with pytest.raises(PatternError, match="no lightning indexer"):
            resolve(spec, config)
