"""Where the time of a decode step and of a warm turn goes, kernel by kernel, with SGLang's own profiler."""

import gzip
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sgl_indexcache.bench.workload import COLD, DECODE, DECODE_OWN_TOKENS, PROFILE, Workload

KERNELS_SHOWN = 25
NAME_LENGTH = 120
STEPS = 16
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def profile(engine: Any, workload: Workload) -> dict[str, Any]:
    """Device time of a started sglang.Engine on CUDA, each absent if not measured.

    decode  one step of the largest batch: two runs that differ by 16 steps, subtracted
    warm    one turn of the first size after the workload's prefix
    warm_device  of that turn and the step that the scheduler launches ahead: {busy_us, span_us}, how long the device
                 did something, and from its first to its last event

    A list holds {kernel, us, calls}, the most expensive first; {kernel: "everything"} leads it. Prompts are those of
    the workload, so that their prefix is cached.
    """
    figures: dict[str, Any] = {}
    length = workload.prefix
    prefix = workload.tokens(length, COLD, length, workload.colds - 1 if length in workload.lengths else 0)
    if workload.batches:
        size = max(workload.batches)
        prompts = [prefix + workload.tokens(DECODE_OWN_TOKENS, DECODE, size, row) for row in range(size)]
        _generate(engine, prompts, 1)
        short = times_of(_traced(engine, lambda: _generate(engine, prompts, 4)))
        long = times_of(_traced(engine, lambda: _generate(engine, prompts, 4 + STEPS)))
        figures["decode"] = summary(long, short, STEPS)
    if workload.turns:
        turn = prefix + workload.tokens(workload.turns[0], PROFILE)
        _generate(engine, [prefix + workload.tokens(1, PROFILE, 1)], 1)
        trace = _traced(engine, lambda: _generate(engine, [turn], 1))
        figures |= {"warm": summary(times_of(trace), {}, 1), "warm_device": occupied(trace)}
    return figures


Times = Mapping[str, tuple[float, int]]
"""Microseconds and calls by kernel."""


def summary(long: Times, short: Times, steps: int) -> list[dict[str, Any]]:
    """One of `steps` that `long` has more than `short`; see `profile`."""
    rows = []
    for name, (us, calls) in long.items():
        less_us, less_calls = short.get(name, (0.0, 0))
        rows.append((name, (us - less_us) / steps, (calls - less_calls) / steps))
    rows.sort(key=lambda row: -row[1])
    total = ("everything", sum(row[1] for row in rows), sum(row[2] for row in rows))
    return [
        {"kernel": name[:NAME_LENGTH], "us": round(us, 2), "calls": round(calls, 2)}
        for name, us, calls in [total, *rows[:KERNELS_SHOWN]]
    ]


def times_of(trace: Mapping[str, Any]) -> Times:
    """Device times by name from a Chrome trace of torch's profiler."""
    us: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in trace["traceEvents"]:
        if event.get("cat") in _ON_DEVICE:
            us[event["name"]] += event["dur"]
            calls[event["name"]] += 1
    return {name: (us[name], calls[name]) for name in us}


def occupied(trace: Mapping[str, Any]) -> dict[str, float]:
    """{busy_us, span_us} of the device; events of several streams that overlap count once."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in trace["traceEvents"] if e.get("cat") in _ON_DEVICE)
    busy, end = 0.0, float("-inf")
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return {"busy_us": round(busy, 2), "span_us": round(end - spans[0][0], 2) if spans else 0.0}


def _traced(engine: Any, work: Callable[[], None]) -> Mapping[str, Any]:
    """A Chrome trace of torch's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        engine.start_profile(output_dir=folder, activities=["GPU"], with_stack=False, record_shapes=False)
        work()
        engine.stop_profile()
        (path,) = Path(folder).rglob("*.trace.json.gz")
        return dict(json.loads(gzip.decompress(path.read_bytes())))


def _generate(engine: Any, prompts: list[list[int]], tokens: int) -> None:
    greedy = {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
    engine.generate(input_ids=prompts, sampling_params=greedy)
