"""A training state on disk: parameters and optimiser in pieces small enough to be carried, and its progress."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

PIECE_BYTES = 14 << 20
"""Largest piece; a single tensor is never that large."""


def save_state(folder: Path, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
    """Write `folder` anew: state-N.safetensors and state.json. An old state stays until the new is whole."""
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    piece: dict[str, torch.Tensor] = {}
    size = count = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if piece and size + tensor.nbytes > PIECE_BYTES:
            save_file(piece, scratch / f"state-{count}.safetensors")
            piece, size, count = {}, 0, count + 1
        piece[name] = tensor
        size += tensor.nbytes
    save_file(piece, scratch / f"state-{count}.safetensors")
    (scratch / "state.json").write_text(json.dumps(progress, indent=1) + "\n")
    # What else stands in the folder (the metrics so far) moves along.
    if folder.exists():
        for other in folder.iterdir():
            if not other.name.startswith("state"):
                os.replace(other, scratch / other.name)
        shutil.rmtree(folder)
    os.replace(scratch, folder)


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the progress that `save_state` wrote."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("state-*.safetensors")):
        tensors.update(load_file(path))
    progress: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return tensors, progress


def parameters_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's part of a state, under the checkpoint's names."""
    prefix = "model/"
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
