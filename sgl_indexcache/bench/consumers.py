"""Time the consumers of a selection: FlashInfer, FlashMLA and FA3 on CUDA, torch without it.

    python -m sgl_indexcache.bench.consumers                        # decode 1 to 32 rows, prefill 64 to 4096
    python -m sgl_indexcache.bench.consumers --heads 32 --rows 1,8  # some of them

FlashMLA and FA3 run through SGLang's own methods, padding and concatenation included. Each is captured into one CUDA
graph that runs over the caches of several layers, so that nothing is found in L2 that would not be there while
serving. Every output is compared with a float32 softmax over the same keys; `sgl-indexcache bench kernels` shows no
ratio for a kernel that fails.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

LATENT, ROPE, WIDTH = 512, 64, 2048
# Caches of this many layers, 64 Ki slots of 1,152 bytes each, take turns: 604 MB against 50 MB of L2.
LAYERS, SLOTS = 8, 1 << 16
SCALE = (192 + 64) ** -0.5
# bf16 output and probabilities; measured differences are 3e-3.
MAX_ERROR = 1e-2
CHECKED_ROWS = 8
# Share of a row's keys that its neighbour selects too: what trained models show in prefill.
SHARED = {"prefill": 0.85, "decode": 0.0}
DECODE_ROWS, PREFILL_ROWS, HEADS = (1, 8, 32, 64), (64, 256, 1024, 4096), (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Problem:
    """q_latent [T, H, 512], q_rope [T, H, 64], caches of [slots, 1, 576], slots int32 [T, width], all selected."""

    q_latent: torch.Tensor
    q_rope: torch.Tensor
    caches: list[torch.Tensor]
    slots: torch.Tensor


def problem(rows: int, heads: int, shared: float, device: str, slots: int, width: int, layers: int) -> Problem:
    """Random queries, caches and selections of distinct slots; neighbours have `shared` of them in common."""
    make = torch.Generator(device=device).manual_seed(rows * 1000 + heads)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=make, device=device, dtype=torch.float32).to(dtype)

    chosen = torch.empty(rows, width, dtype=torch.int32, device=device)
    order = torch.randperm(slots, generator=make, device=device)
    fresh = max(1, round(width * (1 - shared)))
    for row in range(rows):
        # A window that moves on by the keys that are not shared: distinct within a row, wrapping at the end.
        window = torch.arange(row * fresh, row * fresh + width, device=device) % slots
        chosen[row] = order[window].to(torch.int32)
    return Problem(
        normal(rows, heads, LATENT),
        normal(rows, heads, ROPE),
        [normal(slots, 1, LATENT + ROPE) for _ in range(layers)],
        chosen,
    )


def reference(p: Problem, layer: int, rows: int) -> torch.Tensor:
    """Output float32 `[rows, H, 512]` of the first rows."""
    out = []
    for row in range(rows):
        keys = p.caches[layer][p.slots[row].long(), 0].float()
        query = torch.cat([p.q_latent[row], p.q_rope[row]], dim=-1).float()
        out.append((query @ keys.T * SCALE).softmax(dim=-1) @ keys[:, :LATENT])
    return torch.stack(out)


Call = Callable[[int], torch.Tensor]
"""Runs one layer by its number."""


def flashinfer(p: Problem) -> Call:
    from sgl_indexcache.attention import flashinfer as ours

    rows, heads = p.q_latent.shape[:2]
    workspace = torch.empty(ours.WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    kernel = ours.FlashInferMla(heads, p.slots.shape[1], LATENT, ROPE, workspace)
    kernel.plan(torch.full((rows,), p.slots.shape[1], dtype=torch.int32))
    return lambda layer: kernel.run(p.q_latent, p.q_rope, p.caches[layer], p.slots, SCALE)


def flashmla(p: Problem) -> Call:
    from sglang.kernels.ops.attention.utils import concat_mla_absorb_q_general
    from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend

    owner: Any = SimpleNamespace(device_sm_major=torch.cuda.get_device_capability()[0])
    lengths = torch.full((p.slots.shape[0],), p.slots.shape[1], dtype=torch.int32, device="cuda")

    def call(layer: int) -> torch.Tensor:
        out: torch.Tensor = DeepseekSparseAttnBackend._forward_flashmla_sparse(
            owner,
            q_all=concat_mla_absorb_q_general(p.q_latent, p.q_rope),
            kv_cache=p.caches[layer],
            v_head_dim=LATENT,
            page_table_1=p.slots,
            sm_scale=SCALE,
            topk_length=lengths,
        )
        return out

    return call


def fa3(p: Problem) -> Call:
    from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend

    owner: Any = SimpleNamespace(num_splits=0)
    rows, width = p.slots.shape
    lengths = torch.full((rows,), width, dtype=torch.int32, device="cuda")
    starts = torch.arange(rows + 1, dtype=torch.int32, device="cuda")

    def call(layer: int) -> torch.Tensor:
        out: torch.Tensor = DeepseekSparseAttnBackend._forward_fa3(
            owner,
            q_rope=p.q_rope,
            kv_cache=p.caches[layer],
            v_head_dim=LATENT,
            q_nope=p.q_latent,
            page_table=p.slots,
            cache_seqlens=lengths,
            cu_seqlens_q=starts,
            cu_seqlens_k=starts * width,
            max_seqlen_q=1,
            sm_scale=SCALE,
            logit_cap=0.0,
            page_size=1,
        )
        return out

    return call


def torch_gather(p: Problem) -> Call:
    from sgl_indexcache.attention.gather import attend
    from sgl_indexcache.selection import Rows

    rows = p.slots.shape[0]
    slots = p.caches[0].shape[0]
    # One request of all slots, each at its own position; every row sees all of them.
    layout = Rows.of([0] * rows, [slots] * rows, [1] * rows, rows)
    table = torch.arange(slots, dtype=torch.int32).unsqueeze(0)
    query = torch.cat([p.q_latent, p.q_rope], dim=-1)
    return lambda layer: attend(query, p.caches[layer][:, 0], p.slots, table, layout, LATENT, SCALE, 1 << 28)


CUDA_KERNELS: dict[str, Callable[[Problem], Call]] = {"flashinfer": flashinfer, "flashmla": flashmla, "fa3": fa3}
CPU_KERNELS: dict[str, Callable[[Problem], Call]] = {"torch": torch_gather}


def measure(
    decode_rows: tuple[int, ...] = DECODE_ROWS,
    prefill_rows: tuple[int, ...] = PREFILL_ROWS,
    heads: tuple[int, ...] = HEADS,
) -> Iterator[dict[str, Any]]:
    """One entry a shape: {phase, heads, rows, keys: 0, us: {kernel: samples}, wrong: {kernel: why}}.

    Without CUDA the sizes are reduced, and torch is the only kernel.
    """
    cuda = torch.cuda.is_available()
    kernels = CUDA_KERNELS if cuda else CPU_KERNELS
    shape = (SLOTS, WIDTH, LAYERS) if cuda else (1024, 128, 2)
    if not cuda:
        decode_rows, prefill_rows, heads = (1, 4), (32,), (4,)
    for count in heads:
        for phase, sizes in (("decode", decode_rows), ("prefill", prefill_rows)):
            for rows in sizes:
                p = problem(rows, count, SHARED[phase], "cuda" if cuda else "cpu", *shape)
                entry: dict[str, Any] = {"phase": phase, "heads": count, "rows": rows, "keys": 0, "us": {}, "wrong": {}}
                for name, prepare in kernels.items():
                    try:
                        call = prepare(p)
                        if (wrong := check(p, call)) is not None:
                            entry["wrong"][name] = wrong
                        entry["us"][name] = time_graph(call, shape[2]) if cuda else time_host(call, shape[2])
                    except (RuntimeError, ValueError, AssertionError, ImportError) as error:
                        # A kernel that does not take this shape, or is not installed, is no rival for it.
                        entry["wrong"][name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
                        entry["us"].pop(name, None)
                yield entry


def check(p: Problem, call: Call) -> str | None:
    """Why the output is wrong, or None."""
    rows = min(CHECKED_ROWS, p.slots.shape[0])
    for layer in (0, len(p.caches) - 1):
        want = reference(p, layer, rows)
        got = call(layer).view(p.q_latent.shape)[:rows].float()
        error = float((got - want).norm() / want.norm())
        if not error <= MAX_ERROR:
            return f"relative error {error:.1e}"
    return None


def time_graph(call: Call, layers: int, replays: int = 15) -> list[float]:
    """Microseconds of one layer: samples of a CUDA graph over all layers, divided by their number."""
    for layer in range(layers):
        call(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in range(layers):
            call(layer)
    graph.replay()
    samples = []
    for _ in range(replays):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        samples.append(1e3 * begin.elapsed_time(end) / layers)
    return samples


def time_host(call: Call, layers: int, repeats: int = 5) -> list[float]:
    """Microseconds of one layer on the CPU."""
    call(0)
    samples = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for layer in range(layers):
            call(layer)
        samples.append(1e6 * (time.perf_counter() - begin) / layers)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", default=",".join(map(str, HEADS)))
    parser.add_argument("--rows", help="decode rows; no prefill then")
    options = parser.parse_args()
    heads = tuple(map(int, options.heads.split(",")))
    decode = tuple(map(int, options.rows.split(","))) if options.rows else DECODE_ROWS
    for entry in measure(decode, () if options.rows else PREFILL_ROWS, heads):
        times = ", ".join(f"{name} {statistics.median(us):.1f} us" for name, us in entry["us"].items())
        wrong = "".join(f"; {name} WRONG: {why}" for name, why in entry["wrong"].items())
        print(f"{entry['phase']} {entry['rows']} rows x {entry['heads']} heads: {times}{wrong}", flush=True)


if __name__ == "__main__":
    main()
