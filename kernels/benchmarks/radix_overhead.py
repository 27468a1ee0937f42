"""What the records of the index store cost the radix tree: match, insert and split beside SGLang's plain RadixCache.

Use: `SGLANG_USE_CPU_ENGINE=1 python kernels/benchmarks/radix_overhead.py --out radix-overhead.json`

A generated trace of conversations (shared system prompts, turns that go on, repeats, other branches) is put to both
trees, alternately; the best of some rounds counts. Both trees must end equal. Exit status 1 above the limit.
"""

import argparse
import json
import os
import platform
import statistics
import time
from array import array
from importlib import metadata
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

PAGE, LAYERS, TOPK, SLOTS = 64, 12, 16, 512
SCHEMA = 1


def trace(operations: int, seed: int) -> list[tuple[Any, int]]:
    """Sequences that end, in order, each with the length of its prompt; four tree operations each."""
    draw = Random(seed)
    systems = [_words(draw, draw.randint(200, 1500)) for _ in range(20)]
    talks = [array("q", draw.choice(systems)) for _ in range(200)]
    sequences = []
    for _ in range(operations // 4):
        which = draw.randrange(len(talks))
        kind = draw.random()
        if kind < 0.1:  # a new conversation
            talks[which] = array("q", draw.choice(systems))
        elif kind < 0.2:  # another branch
            talks[which] = talks[which][: draw.randint(1, len(talks[which]))]
        elif len(talks[which]) > 6000:
            talks[which] = talks[which][:1000]
        repeated = 0.2 < kind < 0.3 and len(talks[which]) > 1
        prompt = talks[which] if repeated else talks[which] + _words(draw, draw.randint(1, 300))
        talks[which] = prompt + _words(draw, draw.randint(1, 200))
        sequences.append((talks[which], len(prompt)))
    return sequences


def _words(draw: Random, count: int) -> Any:
    return array("q", (draw.randrange(32000) for _ in range(count)))


class Allocator:
    """Takes freed slots back and counts them."""

    device = "cpu"
    freed = 0

    def free_segment(self, slots: Any, start_pos: int) -> None:
        self.freed += len(slots)


def build(ours: bool) -> Any:
    """An empty tree of either kind."""
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.radix_cache import RadixCache

    from sgl_indexcache.sglang_port.radix import tree_class
    from sgl_indexcache.store import IndexStore, Pool
    from sgl_indexcache.store.pool import slot_bytes

    params = CacheInitParams(
        disable=False,
        req_to_token_pool=None,  # type: ignore[arg-type]
        token_to_kv_pool_allocator=Allocator(),  # type: ignore[arg-type]
        page_size=PAGE,
    )
    if not ours:
        return RadixCache(params)
    pool = Pool(SLOTS * slot_bytes(LAYERS, PAGE, TOPK), LAYERS, PAGE, TOPK)
    return tree_class()(params, IndexStore(pool, range(LAYERS), 64, 1e-5))


def run(tree: Any, sequences: list[tuple[Any, int]], capacity: int) -> tuple[float, float]:
    """Seconds in match, insert, split and evict, and seconds in the store's part before a forward (0 without one)."""
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    from sgl_indexcache.store import Turn

    store = getattr(tree, "store", None)
    values = torch.arange(1 << 14, dtype=torch.int64)
    in_tree = before_forward = 0.0
    clock = time.perf_counter
    for number, (tokens, prompt) in enumerate(sequences):
        request = SimpleNamespace(req_pool_idx=1, rid=number)
        begin = clock()
        match = tree.match_prefix(MatchPrefixParams(key=RadixKey(tokens, limit=prompt - 1)))
        in_tree += clock() - begin
        cached = len(match.device_indices)
        if store is not None:
            begin = clock()
            tails = tree.tails_after(match.last_device_node) if cached else []
            window = tokens[cached : min(prompt, cached + PAGE)]
            store.begin([Turn(1, number, cached, prompt, True, window, tails)])
            for position in range(prompt, min(prompt + 1, len(tokens))):
                store.begin([Turn(1, number, position, position + 1)])
            before_forward += clock() - begin
        begin = clock()
        for end in (prompt, len(tokens)):
            key = RadixKey(tokens, limit=end).page_aligned(PAGE)
            result = tree.insert(InsertParams(key=key, value=values[: len(key)]))
            first = (end - 1) // PAGE * PAGE
            if store is not None and first:
                tree._keep(request, result.last_device_node, len(key) - first, first, tokens[first:end])
        if store is not None:
            store.end(1)
        if tree.evictable_size() > capacity:
            tree.evict(EvictParams(num_tokens=tree.evictable_size() - capacity))
        in_tree += clock() - begin
    return in_tree, before_forward


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capacity", type=int, default=200_000, help="KV slots of the tree")
    parser.add_argument("--limit", type=float, default=1.1, help="allowed ratio to the plain tree")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sequences = trace(asked.operations, asked.seed)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    before: list[float] = []
    ends: dict[str, Any] = {}
    state: dict[str, int] = {}
    for _ in range(asked.rounds):
        for name in ("plain", "ours"):
            tree = build(name == "ours")
            in_tree, before_forward = run(tree, sequences, asked.capacity)
            times[name].append(in_tree)
            ends[name] = (tree.total_size(), tree.token_to_kv_pool_allocator.freed)
            if name == "ours":
                before.append(before_forward)
                state = tree.store.snapshot()
    if ends["plain"] != ends["ours"]:
        print(f"error: the trees differ at the end: {ends}")
        return 1
    ratio = min(times["ours"]) / min(times["plain"])
    report = {
        "schema": SCHEMA,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: metadata.version(name) for name in ("sglang", "torch")},
        "settings": {**{k: v for k, v in vars(asked).items() if k != "out"}, "page": PAGE, "layers": LAYERS},
        "seconds": times,
        "ratio": ratio,
        "ratio_of_medians": statistics.median(times["ours"]) / statistics.median(times["plain"]),
        "microseconds_per_operation": {k: 1e6 * min(v) / asked.operations for k, v in times.items()},
        "microseconds_per_forward_of_one_request": 1e6 * min(before) / (2 * len(sequences)),
        "store": state,
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"ratio {ratio:.3f}, limit {asked.limit}; {report['microseconds_per_operation']} us an operation")
    return 0 if ratio <= asked.limit else 1


if __name__ == "__main__":
    raise SystemExit(main())
