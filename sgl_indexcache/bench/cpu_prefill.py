"""Time the CPU backend: prefill through the real engine, and the tile sizes that its two kernels use.

    python -m sgl_indexcache.bench.cpu_prefill --model MODEL                     # our backend
    python -m sgl_indexcache.bench.cpu_prefill --model MODEL --rival dsa_cpu     # beside another plugin's backend
    python -m sgl_indexcache.bench.cpu_prefill --sweep                           # tile sizes

A rival is the name of an attention backend that another installed plugin registers. Engines are started in
turn, each in a process of its own, `--rounds` times, so that a drift of the machine meets both alike. Writes
one JSON with every time; prints medians, spread and the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.bench.cpu_prefill/2"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="model folder; a small random one is made by default")
    parser.add_argument("--kernel-dims", action="store_true", help="a random model with DeepSeek-V3.2's MLA widths")
    parser.add_argument("--rival", help="attention backend of another installed plugin")
    parser.add_argument("--tokens", type=int, default=2048, help="prompt length in tokens")
    parser.add_argument("--repeats", type=int, default=5, help="timed prefills an engine")
    parser.add_argument("--rounds", type=int, default=2, help="engines a backend, started in turn")
    parser.add_argument("--chunk", type=int, default=2048, help="chunked prefill size in tokens")
    parser.add_argument("--sweep", action="store_true", help="time tile sizes instead of engines")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    return parser.parse_args()


def prefill_times(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Seconds to the first token of fresh prompts, and those tokens, by which backends are compared."""
    import random

    import sglang

    engine = sglang.Engine(
        model_path=str(options.model),
        device="cpu",
        attention_backend=backend,
        dtype="float32",
        page_size=64,
        mem_fraction_static=0.3,
        max_total_tokens=4 * options.tokens,
        max_running_requests=4,
        chunked_prefill_size=options.chunk,
        random_seed=0,
        log_level="error",
    )
    rng = random.Random(7)
    seconds, first_tokens = [], []
    for _ in range(options.repeats + 1):
        prompt = [rng.randrange(256) for _ in range(options.tokens)]
        begin = time.perf_counter()
        answer = engine.generate(
            input_ids=prompt, sampling_params={"max_new_tokens": 1, "temperature": 0, "ignore_eos": True}
        )
        seconds.append(time.perf_counter() - begin)
        first_tokens.append(answer["output_ids"][0])
    engine.shutdown()
    return {"backend": backend, "seconds": seconds[1:], "first_tokens": first_tokens}


def in_own_process(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """`prefill_times` in a fresh process, with only this backend's plugin switched on."""
    command = [sys.executable, "-P", "-W", "ignore", "-m", "sgl_indexcache.bench.cpu_prefill"]
    command += ["--engine", backend, "--model", str(options.model)]
    for name in ("tokens", "repeats", "chunk"):
        command += [f"--{name}", str(getattr(options, name))]
    environment = dict(os.environ, SGLANG_USE_CPU_ENGINE="1")
    if backend == "indexcache":
        environment["SGLANG_PLUGINS"] = "indexcache"
    else:
        environment["SGLANG_PLUGINS"] = ",".join(
            entry.name for entry in metadata.entry_points(group="sglang.srt.plugins") if entry.name != "indexcache"
        )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the engine with backend {backend} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Prefill times of our backend and, where given, of a rival, in alternation."""
    backends = ["indexcache", *([options.rival] if options.rival else [])]
    runs = [in_own_process(options, backend) for _ in range(options.rounds) for backend in backends]
    if len({tuple(run["first_tokens"]) for run in runs}) != 1:
        sys.exit("the backends give different tokens: no time is reported for a wrong answer")
    figures = {}
    for backend in backends:
        seconds = [s for run in runs if run["backend"] == backend for s in run["seconds"]]
        figures[backend] = {
            "median_s": statistics.median(seconds),
            "min_s": min(seconds),
            "max_s": max(seconds),
            "n": len(seconds),
        }
        print(
            f"{backend:12s} {options.tokens} tokens: median {figures[backend]['median_s']:.3f} s "
            f"({min(seconds):.3f} to {max(seconds):.3f}, n {len(seconds)})"
        )
    if options.rival:
        figures["ratio"] = figures[options.rival]["median_s"] / figures["indexcache"]["median_s"]
        print(f"{options.rival} / indexcache: {figures['ratio']:.2f}")
    return {"figures": figures, "runs": runs}


def sweep() -> dict[str, Any]:
    """Milliseconds of scoring and attention at 2,048 tokens for a range of tile sizes."""
    import torch

    from sgl_indexcache.attention import gather
    from sgl_indexcache.indexer.cpu import exact
    from sgl_indexcache.selection import Rows

    torch.manual_seed(0)
    tokens, heads, dim = 2048, 32, 128
    rows = Rows.of([0], [tokens], [tokens], tokens)
    table = torch.arange(tokens, dtype=torch.int32).unsqueeze(0)
    q, gates, keys = torch.randn(tokens, heads, dim), torch.randn(tokens, heads), torch.randn(tokens, dim)
    selector = exact.Selector(topk=64)
    results: dict[str, Any] = {"score_select": {}, "attend": {}}
    for products in (1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 22, 1 << 24):
        for columns in (256, 512, 1024, 2048):
            exact.TILE_PRODUCTS, exact.KEYS_PER_TILE = products, columns
            ms = _median_ms(lambda: selector(lambda part: (q[part], gates[part]), keys, table, rows))
            results["score_select"][f"{products}x{columns}"] = ms
            print(f"score+select, {products} products, {columns} keys a tile: {ms:.1f} ms")
    picks = selector(lambda part: (q[part], gates[part]), keys, table, rows)
    for latent, value in ((96, 64), (576, 512)):
        query, kv = torch.randn(tokens, 4, latent), torch.randn(tokens, latent)
        for elements in (1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 24):
            gather.TILE_ELEMENTS = elements
            ms = _median_ms(lambda q=query, kv=kv, v=value: gather.attend(q, kv, picks, table, rows, v, 0.1, 1 << 28))
            results["attend"][f"{elements} of {latent}"] = ms
            print(f"attend, latent {latent}, {elements} elements a tile: {ms:.1f} ms")
    return {"figures": results}


def _median_ms(run: Any) -> float:
    run()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def main() -> None:
    options = arguments()
    if options.model is None:
        from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
        from sgl_indexcache.nano.spec import KERNEL, TINY

        name, dims = ("kernel", KERNEL) if options.kernel_dims else ("tiny", TINY)
        options.model = write_random_model(Path(".cache/bench") / f"random-{name}", RandomModelSpec(mla=dims))
    if options.engine:
        print(json.dumps(prefill_times(options, options.engine)))
        return
    result = sweep() if options.sweep else compare(options)
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items() if value is not None}
        write_json(options.out, SCHEMA, {"settings": settings, **result})


if __name__ == "__main__":
    main()
