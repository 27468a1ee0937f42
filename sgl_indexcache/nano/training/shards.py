"""The packed corpus, read back."""

import lzma
from pathlib import Path

import torch

from sgl_indexcache.errors import UserError


class ShardError(UserError):
    """A shard of the corpus that cannot be read."""


def read_shard(folder: Path, name: str, device: torch.device) -> torch.Tensor:
    """A shard of the corpus, "train" or "heldout" (corpus.NAMES), as uint8 [bytes].

    Raises:
        ShardError: it is not there, or not whole.
    """
    path = folder / f"{name}.bin.xz"
    try:
        data = lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise ShardError(
            f"the corpus cannot be read from {path} ({error}): write it with `python -m sgl_indexcache.nano corpus DIR`"
        ) from error
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
