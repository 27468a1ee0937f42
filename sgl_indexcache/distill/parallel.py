"""Processes and shards: one process, or as many as torchrun starts, with the model sharded over all of them (FSDP2)."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sgl_indexcache.distill.model import DsaModel, Layer


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all. mesh: over all of them; None if there is only one."""

    rank: int
    world: int
    device: torch.device
    mesh: DeviceMesh | None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over all processes."""
        if self.mesh is not None:
            dist.all_reduce(tensor)
            tensor = tensor / self.world
        return tensor

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.mesh is not None:
            dist.barrier()

    def agree(self, value: Any) -> Any:
        """The first process's value, in all."""
        if self.mesh is None:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]


def start(device: str | None = None) -> Processes:
    """Join the processes that torchrun started, or be the only one.

    device  cuda or cpu; None takes CUDA where there is some.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "WORLD_SIZE" not in os.environ:
        return Processes(0, 1, torch.device(kind), None)
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        here = torch.device("cuda", torch.cuda.current_device())
    else:
        here = torch.device(kind)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    return Processes(dist.get_rank(), dist.get_world_size(), here, mesh)


def stop(processes: Processes) -> None:
    """Leave the group."""
    if processes.mesh is not None and dist.is_initialized():
        dist.destroy_process_group()


def leave(processes: Processes) -> None:
    """End this process, successfully, if it is one of a group; all its files must be closed.

    Gloo's threads outlive the group, and one that is late drops the tensors of the last collective: it needs the
    interpreter for that, and while the interpreter is being taken down, asking for it aborts the process. So the
    interpreter is not taken down.
    """
    if processes.mesh is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def shard(model: DsaModel, processes: Processes) -> None:
    """Shard a model (on the meta device, too) by layers; nothing is done for one process.

    Gradients are averaged over processes in float32. Indexers are units of their own: they compute from float32
    weights, everything else from the model's dtype.
    """
    if processes.mesh is None:
        return
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    low = MixedPrecisionPolicy(
        param_dtype=None if model.dtype == torch.float32 else model.dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for layer in model.model.layers:
        assert isinstance(layer, Layer)
        if layer.full:
            fully_shard(layer.self_attn.indexer, mesh=processes.mesh, mp_policy=policy)
        fully_shard(layer, mesh=processes.mesh, mp_policy=low)
    fully_shard(model, mesh=processes.mesh, mp_policy=low)


def synchronise(model: nn.Module, enabled: bool) -> None:
    """Whether the next backward averages gradients over processes: only a step's last one needs to."""
    setting = getattr(model, "set_requires_gradient_sync", None)
    if setting is not None:
        setting(enabled)
