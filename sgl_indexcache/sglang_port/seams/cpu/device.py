"""Seam (CPU): SGLang asks for a CUDA capability for every DSA model, whatever the device.

server_args.py:5176 and arg_groups/overrides.py:1524, 1594 choose KV dtypes and kernels by it. (0, 0) leads
them to choices that the CPU backend never reads.
"""

from typing import Any

from sgl_indexcache.sglang_port.base import CPU, BrokenSeamError, Hook, Seam


def _capability(device: Any = None) -> tuple[int, int]:
    return (0, 0)


def _probe() -> str:
    import torch

    if torch.cuda.get_device_capability() != (0, 0):
        raise BrokenSeamError("torch.cuda.get_device_capability does not answer (0, 0)")
    return "torch.cuda.get_device_capability answers (0, 0)"


SEAM = Seam(
    name="cpu-device",
    purpose="answer for the missing CUDA device",
    devices=CPU,
    hooks=(Hook("torch.cuda.get_device_capability", "replace", _capability, parameters=("device",)),),
    probe=_probe,
)
