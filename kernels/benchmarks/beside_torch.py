"""A Triton kernel beside the torch code that it stands for: time, extra memory, and error against float64."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from sgl_indexcache.kernels.benchmarks.run import WARM_UPS, command, milliseconds, require_cuda, write

SLACK = 1e-5
"""Of an error that may be twice torch's in the same dtype."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Both at one shape, and the error of a result against float64."""

    shape: dict[str, int]
    triton: Callable[[], torch.Tensor]
    plain: Callable[[], torch.Tensor]
    error: Callable[[torch.Tensor], float]


def measure(sides: Sides, repeats: int) -> dict[str, Any]:
    """{**shape, error, torch_error, triton_ms, triton_peak_gb, torch_ms, torch_peak_gb}; exits on a wrong result."""
    errors = {"error": sides.error(sides.triton()), "torch_error": sides.error(sides.plain())}
    line: dict[str, Any] = {**sides.shape, **errors}
    if not errors["error"] <= 2 * errors["torch_error"] + SLACK:
        sys.exit(f"error: the kernel is wrong: {json.dumps(line)}")
    for name, call in (("triton", sides.triton), ("torch", sides.plain)):
        line[f"{name}_ms"], line[f"{name}_peak_gb"] = _timed(call, repeats)
    return line


def _timed(call: Callable[[], torch.Tensor], repeats: int) -> tuple[float, float]:
    """Median milliseconds and peak extra GB of a call."""
    for _ in range(WARM_UPS):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    samples = [milliseconds(call) for _ in range(repeats)]
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    return round(statistics.median(samples), 3), round(peak, 3)


def run(name: str, doc: str, shapes: Iterable[tuple[int, ...]], sides: Callable[..., Sides]) -> None:
    """The command of such a benchmark: one JSON line a shape, all of them in `--out`."""
    options: argparse.Namespace = command(doc, repeats=20).parse_args()
    require_cuda()
    results = []
    for shape in shapes:
        torch.manual_seed(0)
        results.append(measure(sides(*shape), options.repeats))
        print(json.dumps(results[-1]), flush=True)
    write(name, options.out, results)
