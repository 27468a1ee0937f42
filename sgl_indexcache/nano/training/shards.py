"""The packed corpus, read back."""

import lzma
from pathlib import Path

import torch


def read_shard(folder: Path, name: str, device: torch.device) -> torch.Tensor:
    """A shard of the corpus, "train" or "heldout" (corpus.NAMES), as uint8 [bytes]."""
    data = lzma.decompress((folder / f"{name}.bin.xz").read_bytes())
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
