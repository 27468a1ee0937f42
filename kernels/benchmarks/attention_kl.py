"""Attention's distribution of a slice of queries, Triton against torch, on a GPU.

`python -m sgl_indexcache.kernels.benchmarks.attention_kl --out FILE` prints one JSON a shape: milliseconds (median),
extra peak memory, and the largest error (L1 over the keys) against float64. A shape whose error is more than twice
that of torch in the same dtype stops the run: no time is reported for a wrong result.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from sgl_indexcache.kernels.attention_kl.kernel import attention_distribution_kernel
from sgl_indexcache.kernels.attention_kl.reference import attention_distribution

SHAPES = ((8, 4, 64, 8192, 80), (1, 128, 64, 8192, 192), (1, 128, 64, 32768, 192), (1, 64, 64, 131072, 256))
"""batch, heads, queries, keys, width: the nano model, DeepSeek-V3.2 at two lengths, GLM-5."""
REPEATS = 20


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Median milliseconds and peak extra GB of a call."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9
    return round(sorted(times)[REPEATS // 2], 3), round(peak, 3)


def measure(batch: int, heads: int, rows: int, keys: int, width: int) -> dict[str, object]:
    """One shape, bf16, every query at a random place of the second half."""
    torch.manual_seed(0)
    q = torch.randn(batch, heads, rows, width, device="cuda").bfloat16()
    k = torch.randn(batch, heads, keys, width, device="cuda").bfloat16()
    last = torch.randint(keys // 2, keys, (batch, rows, 1), device="cuda")
    seen = torch.arange(keys, device="cuda") <= last
    scale = width**-0.5
    found = attention_distribution_kernel(q, k, seen, scale)
    plain = attention_distribution(q, k, seen, scale)
    few = slice(0, 2)
    exact = attention_distribution(q[:, :, few].double(), k.double(), seen[:, few], scale)
    error = float((found[:, few] - exact).abs().sum(-1).max())
    allowed = 2 * float((plain[:, few] - exact).abs().sum(-1).max()) + 1e-5
    line: dict[str, object] = {"batch": batch, "heads": heads, "rows": rows, "keys": keys, "width": width}
    line |= {"error_l1": error, "torch_error_l1": allowed / 2}
    if error > allowed:
        raise SystemExit(f"error: the kernel is wrong: {json.dumps(line)}")
    for name, work in (("triton", attention_distribution_kernel), ("torch", attention_distribution)):
        line[f"{name}_ms"], line[f"{name}_peak_gb"] = timed(lambda work=work: work(q, k, seen, scale))
    return line


def main() -> None:
    """Measure all shapes; write them as JSON if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    lines = []
    for shape in SHAPES:
        lines.append(measure(*shape))
        print(json.dumps(lines[-1]), flush=True)
    if chosen.out:
        facts = {"schema": 1, "machine": torch.cuda.get_device_name(), "torch": torch.__version__, "shapes": lines}
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
