"""What the records of the index store cost the radix tree: match, insert and split beside SGLang's plain RadixCache.

Use: `SGLANG_USE_CPU_ENGINE=1 python -m sgl_indexcache.bench.radix_overhead --out radix-overhead.json`

A generated trace of conversations (shared system prompts, turns that go on, repeats, other branches) is put to both
trees, step by step; the best of some rounds counts. Both trees must end equal. Exit status 1 above the limit.
"""

import argparse
import gc
import statistics
import time
from array import array
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from sgl_indexcache.results import write_json

PAGE, LAYERS, TOPK, SLOTS = 64, 12, 16, 512
SCHEMA = "sgl_indexcache.bench.radix_overhead/2"


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

    from sgl_indexcache.sglang_port.seams.common.radix import tree_class
    from sgl_indexcache.store import IndexStore, Pool
    from sgl_indexcache.store.pool import slot_bytes

    params = CacheInitParams(
        disable=False,
        req_to_token_pool=None,
        token_to_kv_pool_allocator=Allocator(),
        page_size=PAGE,
    )
    if not ours:
        return RadixCache(params)
    pool = Pool(SLOTS * slot_bytes(LAYERS, PAGE, TOPK), LAYERS, PAGE, TOPK)
    return tree_class()(params, IndexStore(pool, range(LAYERS), 64, 1e-5))


class Clocked:
    """A tree, and the seconds spent in its operations and in the store's part before forwards."""

    def __init__(self, ours: bool, capacity: int) -> None:
        self.tree = build(ours)
        self.store = getattr(self.tree, "store", None)
        self.capacity = capacity
        self.values = torch.arange(1 << 14, dtype=torch.int64)
        self.in_tree = self.before_forward = 0.0

    def serve(self, number: int, tokens: Any, prompt: int) -> None:
        """Match the prompt, insert it, insert the finished sequence, and evict what is too much."""
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams
        from sglang.srt.mem_cache.radix_cache import RadixKey

        tree, store, clock = self.tree, self.store, time.perf_counter
        request = SimpleNamespace(req_pool_idx=1, rid=number)
        begin = clock()
        match = tree.match_prefix(MatchPrefixParams(key=RadixKey(tokens, limit=prompt - 1)))
        self.in_tree += clock() - begin
        if store is not None:
            begin = clock()
            self._forwards(store, number, tokens, prompt, match)
            self.before_forward += clock() - begin
        begin = clock()
        for end in (prompt, len(tokens)):
            key = RadixKey(tokens, limit=end).page_aligned(PAGE)
            result = tree.insert(InsertParams(key=key, value=self.values[: len(key)]))
            first = (end - 1) // PAGE * PAGE
            if store is not None and first:
                tree._keep(request, result.last_device_node, len(key) - first, first, tokens[first:end])
        if store is not None:
            store.end(1)
        if tree.evictable_size() > self.capacity:
            tree.evict(EvictParams(num_tokens=tree.evictable_size() - self.capacity))
        self.in_tree += clock() - begin

    def _forwards(self, store: Any, number: int, tokens: Any, prompt: int, match: Any) -> None:
        """The hook before the prefill and before one forward of decode."""
        from sgl_indexcache.store import RequestRows

        cached = len(match.device_indices)
        tails = self.tree.tails_after(match.last_device_node) if cached else []
        window = tokens[cached : min(prompt, cached + PAGE)]
        store.begin([RequestRows(1, number, cached, prompt, True, window, tails)])
        store.begin([RequestRows(1, number, prompt, prompt + 1)])


def run(sequences: list[tuple[Any, int]], capacity: int) -> dict[str, Clocked]:
    """Serve the trace on both trees, step by step, each going first every other time."""
    clocked = {"plain": Clocked(False, capacity), "ours": Clocked(True, capacity)}
    names = list(clocked)
    # Garbage would be collected in whichever tree happens to be on the clock.
    gc.collect()
    gc.disable()
    try:
        for number, (tokens, prompt) in enumerate(sequences):
            for name in names if number % 2 else reversed(names):
                clocked[name].serve(number, tokens, prompt)
    finally:
        gc.enable()
    return clocked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--capacity", type=int, default=200_000, help="KV slots of the tree")
    parser.add_argument("--limit", type=float, default=1.1, help="allowed ratio to the plain tree")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sequences = trace(options.operations, options.seed)
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    before: list[float] = []
    ends: dict[str, Any] = {}
    state: dict[str, int] = {}
    for _ in range(options.rounds):
        for name, clocked in run(sequences, options.capacity).items():
            times[name].append(clocked.in_tree)
            ends[name] = (clocked.tree.total_size(), clocked.tree.token_to_kv_pool_allocator.freed)
            if clocked.store is not None:
                before.append(clocked.before_forward)
                state = clocked.store.snapshot()
    if ends["plain"] != ends["ours"]:
        print(f"error: the trees differ at the end: {ends}")
        return 1
    ratio = min(times["ours"]) / min(times["plain"])
    report = {
        "settings": {**{k: v for k, v in vars(options).items() if k != "out"}, "page": PAGE, "layers": LAYERS},
        "seconds": times,
        "ratio": ratio,
        "ratio_of_medians": statistics.median(times["ours"]) / statistics.median(times["plain"]),
        "microseconds_per_operation": {k: 1e6 * min(v) / options.operations for k, v in times.items()},
        "microseconds_per_forward_of_one_request": 1e6 * min(before) / (2 * len(sequences)),
        "store": state,
    }
    if options.out is not None:
        write_json(options.out, SCHEMA, report)
    print(f"ratio {ratio:.3f}, limit {options.limit}; {report['microseconds_per_operation']} us an operation")
    return 0 if ratio <= options.limit else 1


if __name__ == "__main__":
    raise SystemExit(main())
