"""Time one engine through a workload."""

import time
from collections.abc import Callable
from typing import Any

from sgl_indexcache.bench.errors import BenchError
from sgl_indexcache.bench.workload import COLD, DECODE, DECODE_OWN_TOKENS, PROBE, WARM, WARMUP, Workload

Record = Callable[[dict[str, Any]], None]
"""Takes {kind, length, new, batch, samples}: times in milliseconds of one figure."""


def measure(engine: Any, workload: Workload, record: Record) -> dict[str, Any]:
    """Run the workload on a started sglang.Engine; `record` gets every figure as soon as it is known.

    Returns the next-token distribution of the probe: {"tokens": [...], "log_probs": [...]}, best first.
    """
    for length in (workload.probe // 2, max((*workload.lengths, workload.prefix)) // 10):
        _first_token(engine, workload.tokens(max(length, 64), WARMUP, length))
    probe = _probe(engine, workload.tokens(workload.probe, PROBE))
    for length in workload.lengths:
        samples = []
        ids: list[int] = []
        for rep in range(workload.colds):
            _empty(engine)
            ids = workload.tokens(length, COLD, length, rep)
            samples.append(_first_token(engine, ids))
        record({"kind": "cold", "length": length, "new": length, "batch": 1, "samples": samples})
        for new in workload.turns:
            turns = [ids + workload.tokens(new, WARM, new, rep) for rep in range(workload.samples)]
            samples = [_first_token(engine, turn) for turn in turns]
            record({"kind": "warm", "length": length, "new": new, "batch": 1, "samples": samples})
        samples = [_first_token(engine, ids) for _ in range(workload.samples)]
        record({"kind": "repeat", "length": length, "new": 0, "batch": 1, "samples": samples})
        if length == workload.prefix:
            _decode(engine, workload, ids, record)
    if workload.prefix not in workload.lengths and workload.batches:
        _empty(engine)
        _decode(engine, workload, workload.tokens(workload.prefix, COLD, workload.prefix, 0), record)
    return probe


def _decode(engine: Any, workload: Workload, prefix: list[int], record: Record) -> None:
    for size in workload.batches:
        prompts = [prefix + workload.tokens(DECODE_OWN_TOKENS, DECODE, size, row) for row in range(size)]
        _generate(engine, prompts, 1)  # the prompts' own tokens enter the cache
        samples = []
        for _ in range(workload.samples):
            # Two runs that differ by decode steps alone.
            short, long = _generate(engine, prompts, 4), _generate(engine, prompts, 4 + workload.steps)
            samples.append((long - short) / workload.steps)
        record({"kind": "decode", "length": workload.prefix, "new": 0, "batch": size, "samples": samples})


def _greedy(tokens: int) -> dict[str, Any]:
    return {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}


def _first_token(engine: Any, ids: list[int]) -> float:
    begin = time.perf_counter()
    answer = next(iter(engine.generate(input_ids=ids, sampling_params=_greedy(1), stream=True)))
    took = 1e3 * (time.perf_counter() - begin)
    _finished([ids], [answer])
    return took


def _generate(engine: Any, prompts: list[list[int]], tokens: int) -> float:
    begin = time.perf_counter()
    answers = engine.generate(input_ids=prompts, sampling_params=_greedy(tokens))
    took = 1e3 * (time.perf_counter() - begin)
    _finished(prompts, answers)
    return took


def _finished(prompts: list[list[int]], answers: list[dict[str, Any]]) -> None:
    """Raise BenchError for an answer that ended before its last token: its time is none of a forward."""
    for ids, answer in zip(prompts, answers, strict=True):
        reason = answer["meta_info"]["finish_reason"]
        if reason is None or reason["type"] != "length":
            ending = reason.get("message") or reason["type"] if reason else "no token was the last"
            raise BenchError(
                f"a prompt of {len(ids)} tokens was not answered ({ending}): use shorter --lengths or --turns, "
                "or a device with more memory"
            )


def _empty(engine: Any) -> None:
    time.sleep(0.2)  # the scheduler refuses while the last request is being filed away
    engine.flush_cache()


def _probe(engine: Any, ids: list[int]) -> dict[str, Any]:
    answer = engine.generate(
        input_ids=ids, sampling_params=_greedy(1), return_logprob=True, top_logprobs_num=PROBE_TOKENS
    )
    best = answer["meta_info"]["output_top_logprobs"][0]
    return {"tokens": [entry[1] for entry in best], "log_probs": [entry[0] for entry in best]}


PROBE_TOKENS = 20
