"""Seam (CPU): plain rotary embedding. SGLang's CPU factory knows only deepseek_yarn (factory.py:386)."""

from typing import Any

from sgl_indexcache.sglang_port.base import CPU, Hook, Seam

_PARAMETERS = (
    "head_size",
    "rotary_dim",
    "max_position",
    "base",
    "is_neox_style",
    "rope_scaling",
    "dtype",
    "partial_rotary_factor",
    "device",
)


def _rope(original: Any, *args: Any, **kwargs: Any) -> Any:
    arguments = dict(zip(_PARAMETERS, args, strict=False)) | kwargs
    scaling = arguments.get("rope_scaling")
    if scaling is not None and scaling.get("rope_type") not in (None, "default"):
        return original(*args, **kwargs)
    from sglang.srt.layers.rotary_embedding.factory import get_rope

    arguments.pop("device", None)
    return get_rope(**arguments)


SEAM = Seam(
    name="cpu-rope",
    purpose="build plain rotary embeddings",
    devices=CPU,
    hooks=(Hook("sglang.srt.layers.rotary_embedding.factory.get_rope_cpu", "around", _rope, parameters=_PARAMETERS),),
)
