"""Checkpoints in the Hugging Face layout: safetensors in one file or with an index, read by name, written anew.

Reading takes only the bytes that a process keeps of a tensor. Writing goes file by file through the source, so the
result has the source's files, names, order and dtypes; what was not trained (other layers' indexers, layers for
speculative decoding) is copied.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.pattern import Pattern

INDEX = "model.safetensors.index.json"
_OLD_SHARING = ("index_topk_freq", "index_skip_topk_offset", "indexer_types")


class Checkpoint:
    """The tensors of a model folder.

    folder  where it is.
    files   names of its safetensors files, ascending.
    where   file of each tensor. shapes: shape of each tensor.

    Raises:
        DistillError: from the constructor, when there are no safetensors, or they cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            if (folder / INDEX).exists():
                self.where: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
            else:
                names = sorted(path.name for path in folder.glob("*.safetensors"))
                self.where = {tensor: name for name in names for tensor in self._names(name)}
            self.files = sorted(set(self.where.values()))
            self.shapes = {}
            for name in self.files:
                with safe_open(folder / name, "pt") as file:
                    for tensor in file.keys():  # noqa: SIM118 (not a mapping)
                        self.shapes[tensor] = tuple(file.get_slice(tensor).get_shape())
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DistillError(
                f"the weights in {folder} cannot be read ({error}): fetch the checkpoint again"
            ) from None
        if not self.where:
            raise DistillError(f"{folder} holds no safetensors: name a folder with a model's weights")

    def _names(self, name: str) -> list[str]:
        with safe_open(self.folder / name, "pt") as file:
            return list(file.keys())

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a checkpoint that lacks a tensor of these names and shapes.

        Raises:
            DistillError: it names the first that is missing, or of another shape.
        """
        for name, shape in expected.items():
            if name not in self.shapes:
                kind = "indexer weights" if ".indexer." in name else "weights"
                raise DistillError(f"the checkpoint has no {kind} {name}: choose a checkpoint that has them")
            if self.shapes[name] != shape:
                raise DistillError(
                    f"{name} is {list(self.shapes[name])} in the checkpoint but {list(shape)} by its config: "
                    "fetch config and weights of one model"
                )

    @torch.no_grad()
    def load(self, model: nn.Module, trained: Mapping[str, torch.Tensor] | None = None) -> None:
        """Fill parameters and buffers of `model`, sharded or whole; `trained` (whole tensors) goes first."""
        trained = trained or {}
        by_file: dict[str, list[str]] = {}
        state = model.state_dict()
        for name, target in state.items():
            if name in trained:
                _copy(target, lambda part, name=name: trained[name][part])  # type: ignore[misc]
            else:
                by_file.setdefault(self.where[name], []).append(name)
        for file_name, names in sorted(by_file.items()):
            with safe_open(self.folder / file_name, "pt") as file:
                for name in names:
                    _copy(state[name], file.get_slice(name).__getitem__)


def _copy(target: torch.Tensor, read: Callable[[Any], torch.Tensor]) -> None:
    """Copy a tensor, or the rows of it that this process keeps."""
    if not isinstance(target, DTensor):
        target.copy_(read(slice(None)) if target.ndim else read(...))
        return
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
    local = target.to_local()
    if local.numel():
        # Parameters are sharded by rows alone.
        local.copy_(read(slice(offset[0], offset[0] + shape[0])))


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor on the CPU; every process must call it for the same tensor."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu()


def write(
    source: Checkpoint, trained: Mapping[str, torch.Tensor], pattern: Pattern, out: Path, *, writes: bool = True
) -> None:
    """Write the source's checkpoint with the trained tensors and the pattern into `out`, which appears complete
    or not at all.

    source   where everything else comes from.
    trained  tensors under the checkpoint's names, sharded or whole.
    pattern  written as index_topk_pattern, in place of any other statement of sharing.
    out      a folder that does not exist, or an empty one.
    writes   False in every process but the first, which must all call this for sharded tensors.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)) if writes else Path()
    try:
        for name in source.files:
            _write_file(source, name, trained, scratch if writes else None)
        if writes:
            _copy_others(source, scratch)
            config = json.loads((source.folder / "config.json").read_text())
            written = {key: value for key, value in config.items() if key not in _OLD_SHARING}
            written["index_topk_pattern"] = pattern.letters
            (scratch / "config.json").write_text(json.dumps(written, indent=1) + "\n")
            scratch.chmod(0o755)
            os.rename(scratch, out)
    finally:
        if writes:
            shutil.rmtree(scratch, ignore_errors=True)


def _write_file(source: Checkpoint, name: str, trained: Mapping[str, torch.Tensor], scratch: Path | None) -> None:
    """One file of the source, anew; a scratch of None only takes part in the gathering."""
    names = [tensor for tensor, file in source.where.items() if file == name]
    new = [tensor for tensor in names if tensor in trained]
    if not new:
        if scratch is not None:
            shutil.copy(source.folder / name, scratch / name)
        return
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(source.folder / name, "pt") as file:
        for tensor in names:
            whole = gather(trained[tensor]) if tensor in trained else None
            if scratch is None:
                continue
            before = file.get_tensor(tensor)
            tensors[tensor] = before if whole is None else whole.to(before.dtype).contiguous()
        metadata = file.metadata()
    if scratch is not None:
        save_file(tensors, scratch / name, metadata=metadata or {"format": "pt"})


def _copy_others(source: Checkpoint, scratch: Path) -> None:
    for path in sorted(source.folder.iterdir()):
        if path.is_file() and path.name not in source.files and path.name != "config.json":
            shutil.copy(path, scratch / path.name)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, under the checkpoint's names."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def shapes_of(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, of a model on the meta device too."""
    return {name: tuple(tensor.shape) for name, tensor in parameters}
