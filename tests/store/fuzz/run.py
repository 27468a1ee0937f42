"""What is run: one plan on one engine, with the store or without, and where the answers of two engines differ."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

from ...engine import CPU_ENGINE, cpu_environment, run_job


@dataclass(frozen=True)
class CopyPlan:
    """What is run: schedules `first` to `first + schedules`, on a pool too small for their KV.

    page          tokens of a page
    pool          KV slots
    snapshot_mib  the store's budget
    overlap       SGLang's overlap scheduling
    mixed         prefill and decode rows in one forward
    retract       every how many forwards running requests are retracted
    whole_prefills         the CUDA backend's store, and requests that stand alone are asked three times
    tp            tensor-parallel ranks, whose stores must decide the same
    """

    schedules: int
    first: int = 0
    page: int = 16
    pool: int = 1024
    snapshot_mib: int = 1
    overlap: bool = True
    mixed: bool = False
    retract: int = 0
    whole_prefills: bool = False
    tp: int = 1
    flush_every: int = 8
    aborts: int = 3
    spec: RandomModelSpec = field(
        default_factory=lambda: RandomModelSpec(
            architecture="glm_moe_dsa", layers=3, moe=True, pattern="FSF", index_topk=32, max_positions=1024
        )
    )


def run(plan: CopyPlan, folder: Path, *, store: bool, timeout: float = 36000) -> dict[str, Any]:
    """The answers of one engine (record.py); raises AssertionError with the end of its log when it failed."""
    model = write_random_model(folder / "model", plan.spec)
    engine = {
        **CPU_ENGINE,
        "model_path": str(model),
        "dtype": plan.spec.dtype,
        "page_size": plan.page,
        "chunked_prefill_size": 128,
        "enable_mixed_chunk": plan.mixed,
        "disable_overlap_schedule": not plan.overlap,
        "tp_size": plan.tp,
        "max_total_tokens": plan.pool,
        "max_running_requests": 6,
        "skip_tokenizer_init": True,
    }
    job = {
        "engine": engine,
        "seeds": list(range(plan.first, plan.first + plan.schedules)),
        "times": 3 if plan.whole_prefills else 1,
        "flush_every": plan.flush_every,
        "aborts": plan.aborts,
    }
    environment = cpu_environment(
        # The products are tiny: a second thread costs more than it brings.
        OMP_NUM_THREADS="1",
        SGL_INDEXCACHE_STORE__ENABLED="true" if store else "false",
        SGL_INDEXCACHE_STORE__SNAPSHOT_MIB=str(plan.snapshot_mib),
        SGL_INDEXCACHE_STORE__SELF_CHECK="true",
    )
    if plan.whole_prefills:
        environment["TEST_TWIN_STORE"] = "1"
    if plan.tp > 1:
        # SGLang wants a NUMA node for each rank, or to be told the cores.
        environment["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(str(n % (os.cpu_count() or 1)) for n in range(plan.tp))
        environment["TEST_DECISIONS"] = str(folder)
    if plan.retract:
        environment |= {"SGLANG_TEST_RETRACT": "true", "SGLANG_TEST_RETRACT_INTERVAL": str(plan.retract)}
    return run_job("tests.store.fuzz.record", job, folder, "on" if store else "off", environment, timeout)


def differences(with_store: dict[str, Any], without: dict[str, Any], first: int) -> list[str]:
    """Where the answers differ, to the bit of every log-probability; one sentence a schedule."""
    sentences = []
    pairs = zip(with_store["schedules"], without["schedules"], strict=True)
    for seed, (left, right) in enumerate(pairs, first):
        if left == right:
            continue
        for number, (one, other) in enumerate(zip(left, right, strict=False)):
            if one != other:
                tokens = [a[0] == b[0] for a, b in zip(one, other, strict=False)]
                sentences.append(f"schedule {seed}: step {number} differs (tokens equal: {tokens})")
                break
        else:
            sentences.append(f"schedule {seed}: another number of steps")
    return sentences
