"""Patterns: which layers are Full (run the lightning indexer) and which are Shared (reuse a selection).

Contract: plain Python over plain data. Nothing here imports torch, transformers or SGLang, so the plugin,
the CLI and the offline tools can all use it at no cost. Where a class goes:

    pattern.py   Pattern, the value itself            rule.py      SGLang's frequency rule
    config.py    what a model's config.json asks for  presets.py   published patterns (presets.yaml)
    resolve.py   from a user's spec to a Pattern      draw.py      the strip in the terminal (needs rich)
"""

from sgl_indexcache.pattern.config import layer_count, read_config
from sgl_indexcache.pattern.errors import PatternError
from sgl_indexcache.pattern.pattern import Pattern
from sgl_indexcache.pattern.presets import Preset, presets
from sgl_indexcache.pattern.resolve import Resolution, UniformSpec, check_spec, resolve, trace

__all__ = [
    "Pattern",
    "PatternError",
    "Preset",
    "Resolution",
    "UniformSpec",
    "check_spec",
    "layer_count",
    "presets",
    "read_config",
    "resolve",
    "trace",
]
