"""What a run must keep to go on exactly: the parameters that learn, the optimiser, the step. In shards, resharded
on reading, by torch.distributed.checkpoint."""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as read_shards
from torch.distributed.checkpoint.state_dict_saver import save as write_shards

from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.distill.parallel import Processes

KEPT = 2
"""States that stay: the newest, and the one before in case it turns out to be bad."""
_NAME = re.compile(r"step-(\d{8})")
_MOMENTS = ("exp_avg", "exp_avg_sq")


def tensors_of(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All tensors of a state, by name; the optimiser's are made where there are none yet."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        state = optimizer.state[parameter]
        if not state:
            # fused AdamW keeps its counter on the device.
            at = parameter.device if optimizer.defaults.get("fused") else torch.device("cpu")
            state["step"] = torch.zeros((), dtype=torch.float32, device=at)
            for moment in _MOMENTS:
                state[moment] = torch.zeros_like(parameter, requires_grad=False)
        tensors[f"model.{name}"] = parameter.detach()
        for key in ("step", *_MOMENTS):
            tensors[f"adam.{key}.{name}"] = state[key]
    return tensors


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that a single process saves alone, which is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def states(folder: Path) -> list[Path]:
    """Complete states in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and (path / "progress.json").exists())


def save(
    folder: Path,
    step: int,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    processes: Processes,
) -> None:
    """Write the state after `step` steps; it appears complete or not at all. All processes call it."""
    final = folder / f"step-{step:08d}"
    scratch = folder / f".{final.name}.new"
    if processes.first:
        shutil.rmtree(scratch, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    processes.wait()
    with _quiet():
        write_shards(
            tensors_of(parameters, optimizer),
            storage_writer=FileSystemWriter(scratch),
            no_dist=processes.mesh is None,
        )
    processes.wait()
    if processes.first:
        (scratch / "progress.json").write_text(json.dumps({**progress, "step": step}, indent=1) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(scratch, final)
        for old in states(folder)[:-KEPT]:
            shutil.rmtree(old)
    processes.wait()


def load(
    folder: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    expected: dict[str, Any],
    processes: Processes,
) -> int:
    """Take the newest state in `folder`; the number of steps it has behind it, 0 if there is none.

    Raises:
        DistillError: it was made with another plan, pattern, model or data.
    """
    folders = states(folder)
    if not folders:
        return 0
    progress = json.loads((folders[-1] / "progress.json").read_text())
    differing = sorted(key for key, value in expected.items() if progress.get(key) != value)
    if differing:
        raise DistillError(
            f"{folder} holds the state of a run with another {', '.join(differing)}: give the same again, or "
            "another --out"
        )
    with _quiet():
        read_shards(
            tensors_of(parameters, optimizer),
            storage_reader=FileSystemReader(folders[-1]),
            no_dist=processes.mesh is None,
        )
    return int(progress["step"])
