"""Reads what a model's configuration says about sharing. Works on plain data: no SGLang, no transformers."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgl_indexcache.pattern.errors import PatternError
from sgl_indexcache.pattern.rule import FULL, uniform_letters

# The architectures for which SGLang 0.5.17 builds lightning indexers (tests compare this with SGLang).
# Others may carry `index_topk` too (DeepSeek-V4) and mean another mechanism by it.
DSA_ARCHITECTURES = frozenset(
    {
        "DeepseekV3ForCausalLM",
        "DeepseekV32ForCausalLM",
        "DeepseekV3ForCausalLMNextN",
        "MistralLarge3ForCausalLM",
        "PixtralForConditionalGeneration",
        "GlmMoeDsaForCausalLM",
        "GlmMoeDsaForCausalLMNextN",
        "LongcatFlashForCausalLM",
        "LongcatFlashForCausalLMNextN",
    }
)


def read_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a model folder.

    folder  the model folder, or the path of the `config.json` itself

    Raises:
        PatternError: there is no such file, it cannot be read, or it holds no JSON object.
    """
    path = folder / "config.json" if os.path.isdir(folder) else folder
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PatternError(f"{path} does not exist: name a model folder that holds a config.json") from None
    except OSError as error:
        raise PatternError(f"{path} cannot be read: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise PatternError(f"{path} is not valid JSON at line {error.lineno}: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError):
        raise PatternError(f"{path} is not a model's config.json: it holds no UTF-8 JSON object") from None
    if not isinstance(content, dict):
        raise PatternError(f"{path} is not a model's config.json: it holds no JSON object")
    return content


def layer_count(config: object) -> int:
    """Number of layers (`num_hidden_layers`) of a model that has lightning indexers.

    config  a Hugging Face config object, or a mapping with the content of a config.json

    Raises:
        PatternError: the model has no indexer that SGLang would run, or states no layer count.
    """
    _require_indexer(config)
    layers = _field(config, "num_hidden_layers")
    if not _is_positive_int(layers):
        raise PatternError(f"the model's config has num_hidden_layers={layers!r}: it must be the number of layers")
    assert isinstance(layers, int)
    return layers


def letters_of_config(config: object, layers: int | None = None) -> str:
    """Spell out the sharing that a model's configuration asks SGLang for.

    The order is SGLang's (`dsa_layer_skips_topk`): `index_topk_pattern`, else `index_topk_freq` with
    `index_skip_topk_offset`, else every layer is Full. Stricter than SGLang, which would take a missing
    letter for Full: the length is checked by the caller against `layer_count`.

    config  a Hugging Face config object, or a mapping with the content of a config.json
    layers  layer count to use instead of the config's `num_hidden_layers`

    Raises:
        PatternError: see `layer_count`; or a field holds something SGLang could not follow.
    """
    _require_indexer(config)
    letters = _field(config, "index_topk_pattern")
    if letters is not None:
        if not isinstance(letters, str):
            raise PatternError(
                "the model's index_topk_pattern must be a string of F and S, "
                f"but it is of type {type(letters).__name__}"
            )
        return letters
    count = layer_count(config) if layers is None else layers
    freq = _field(config, "index_topk_freq")
    if freq is None:
        return FULL * count
    offset = _field(config, "index_skip_topk_offset")
    for name, value in (("index_topk_freq", freq), ("index_skip_topk_offset", offset)):
        if value is not None and not _is_positive_int(value):
            raise PatternError(f"the model's {name} must be an integer of at least 1, but it is {value!r}")
    return uniform_letters(count, freq, offset)


def _require_indexer(config: object) -> None:
    if _field(config, "index_topk") is None:
        raise PatternError(
            "the model has no lightning indexer (its config has no index_topk): choose a model with DeepSeek "
            "Sparse Attention, such as DeepSeek-V3.2 or GLM-5"
        )
    architectures = _field(config, "architectures")
    if architectures and architectures[0] not in DSA_ARCHITECTURES:
        raise PatternError(
            f"the architecture {architectures[0]} is not one that SGLang runs with DeepSeek Sparse Attention"
            f": choose a model of {', '.join(sorted(DSA_ARCHITECTURES))}"
        )
    factor = _field(config, "cli_factor")
    if isinstance(factor, int) and factor > 1:
        raise PatternError(
            f"the model's cli_factor={factor} shares selections by a rule of its own, which overrides every "
            "pattern: serve this model without sgl_indexcache"
        )


def _field(config: object, name: str) -> Any:
    if isinstance(config, Mapping):
        return config.get(name)
    return getattr(config, name, None)


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
