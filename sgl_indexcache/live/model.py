"""What tools need to know of a model, read from its folder without loading it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.pattern import layer_count, read_config

_SAMPLE = 1 << 20
"""Bytes hashed at both ends of a weight file: enough to tell checkpoints apart, also those of 700 GB."""
_PATTERN_KEYS = ("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model folder.

    folder       where it is; `name` is its last part
    layers       number of layers
    top_k        size of a selection, in positions
    vocabulary   number of token ids
    context      longest sequence in tokens; None when the config does not say
    fingerprint  SHA-256 (16 hex digits) of config and sampled weights; the pattern in the config is left out of it,
                 because tools set their own
    """

    folder: Path
    name: str
    layers: int
    top_k: int
    vocabulary: int
    context: int | None
    fingerprint: str

    def described(self) -> dict[str, Any]:
        """For reports: everything but the folder, which means nothing on another machine."""
        return {
            "name": self.name,
            "layers": self.layers,
            "index_topk": self.top_k,
            "fingerprint": self.fingerprint,
        }


def read_model(folder: Path) -> ModelFacts:
    """Read a model folder.

    Raises:
        PatternError: no config.json, or one of a model without lightning indexers.
        LiveError: the config has no vocabulary size.
    """
    config = read_config(folder)
    layers = layer_count(config)
    vocabulary = config.get("vocab_size")
    if not isinstance(vocabulary, int):
        raise LiveError(f"the model's config has vocab_size={vocabulary!r}: it must be the number of token ids")
    context = config.get("max_position_embeddings")
    root = folder if folder.is_dir() else folder.parent
    return ModelFacts(
        folder=root,
        name=root.resolve().name,
        layers=layers,
        top_k=int(config["index_topk"]),
        vocabulary=vocabulary,
        context=context if isinstance(context, int) else None,
        fingerprint=_fingerprint(root, config),
    )


def _fingerprint(folder: Path, config: dict[str, Any]) -> str:
    kept = sorted((key, repr(value)) for key, value in config.items() if key not in _PATTERN_KEYS)
    digest = hashlib.sha256(repr(kept).encode())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE))
            file.seek(max(size - _SAMPLE, 0))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]
