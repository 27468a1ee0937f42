"""Random schedules on the real CPU engine, with the store and without: the same bits, and nothing left over.

Use: `python tests/store/fuzz.py --schedules 1000 --out store-fuzz.json`. Exit status 1 when anything differs.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import decisions

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model


@dataclass(frozen=True)
class Plan:
    """What is run: schedules `first` to `first + schedules`, on a pool too small for their KV.

    page: tokens of a page. pool: KV slots. snapshot_mib: the store's budget. overlap: SGLang's overlap scheduling.
    mixed: prefill and decode rows in one forward. retract: every how many forwards running requests are retracted.
    twins: the CUDA backend's store, and requests that stand alone are asked three times. tp: tensor-parallel ranks,
    whose stores must decide the same.
    """

    schedules: int
    first: int = 0
    page: int = 16
    pool: int = 1024
    snapshot_mib: int = 1
    overlap: bool = True
    mixed: bool = False
    retract: int = 0
    twins: bool = False
    tp: int = 1
    flush_every: int = 8
    aborts: int = 3
    spec: RandomModelSpec = field(
        default_factory=lambda: RandomModelSpec(
            architecture="glm_moe_dsa", layers=3, moe=True, pattern="FSF", index_topk=32, max_positions=1024
        )
    )


def run(plan: Plan, folder: Path, *, store: bool, timeout: float = 36000) -> dict[str, Any]:
    """The answers of one engine (record.py); raises AssertionError with the end of its log when it failed."""
    model = write_random_model(folder / "model", plan.spec)
    engine = {
        "model_path": str(model),
        "device": "cpu",
        "attention_backend": "indexcache",
        "dtype": plan.spec.dtype,
        "page_size": plan.page,
        "chunked_prefill_size": 128,
        "enable_mixed_chunk": plan.mixed,
        "disable_overlap_schedule": not plan.overlap,
        "tp_size": plan.tp,
        "mem_fraction_static": 0.3,
        "max_total_tokens": plan.pool,
        "max_running_requests": 6,
        "random_seed": 0,
        "log_level": "error",
        "skip_tokenizer_init": True,
    }
    name = "on" if store else "off"
    job, answers = folder / f"{name}.job.json", folder / f"{name}.answers.json"
    seeds = list(range(plan.first, plan.first + plan.schedules))
    job.write_text(
        json.dumps(
            {
                "engine": engine,
                "seeds": seeds,
                "times": 3 if plan.twins else 1,
                "flush_every": plan.flush_every,
                "aborts": plan.aborts,
            }
        )
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SGL_INDEXCACHE_")}
    environment["SGLANG_USE_CPU_ENGINE"] = "1"
    # The products are tiny: a second thread costs more than it brings.
    environment["OMP_NUM_THREADS"] = "1"
    environment["SGL_INDEXCACHE_STORE__ENABLED"] = "true" if store else "false"
    environment["SGL_INDEXCACHE_STORE__SNAPSHOT_MIB"] = str(plan.snapshot_mib)
    environment["SGL_INDEXCACHE_STORE__SELF_CHECK"] = "true"
    if plan.twins:
        environment["TEST_TWIN_STORE"] = "1"
    if plan.tp > 1:
        # SGLang wants a NUMA node for each rank, or to be told the cores.
        environment["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(str(n % (os.cpu_count() or 1)) for n in range(plan.tp))
        environment["TEST_DECISIONS"] = str(folder)
    if plan.retract:
        environment |= {"SGLANG_TEST_RETRACT": "true", "SGLANG_TEST_RETRACT_INTERVAL": str(plan.retract)}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("record.py")), str(job), str(answers)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = "time-out"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert status == 0, f"the engine ended with {status}:\n{(folder / f'{name}.log').read_text()[-6000:]}"
    found: dict[str, Any] = json.loads(answers.read_text())
    return found


def differences(with_store: dict[str, Any], without: dict[str, Any], first: int) -> list[str]:
    """Where the answers differ, to the bit of every log-probability; one sentence a schedule."""
    found = []
    pairs = zip(with_store["schedules"], without["schedules"], strict=True)
    for seed, (left, right) in enumerate(pairs, first):
        if left == right:
            continue
        for number, (one, other) in enumerate(zip(left, right, strict=False)):
            if one != other:
                tokens = [a[0] == b[0] for a, b in zip(one, other, strict=False)]
                found.append(f"schedule {seed}: step {number} differs (tokens equal: {tokens})")
                break
        else:
            found.append(f"schedule {seed}: another number of steps")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parser.add_argument("--page", type=int, default=16)
    parser.add_argument("--pool", type=int, default=1024)
    parser.add_argument("--snapshot-mib", type=int, default=1)
    parser.add_argument("--no-overlap", action="store_true")
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--retract", type=int, default=0)
    parser.add_argument("--twins", action="store_true", help="the CUDA backend's store")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks")
    parser.add_argument("--control", action="store_true", help="run twice without the store: are those the same?")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    plan = Plan(
        schedules=asked.schedules,
        first=asked.first,
        page=asked.page,
        pool=asked.pool,
        snapshot_mib=asked.snapshot_mib,
        overlap=not asked.no_overlap,
        mixed=asked.mixed,
        retract=asked.retract,
        twins=asked.twins,
        tp=asked.tp,
    )
    took, answers = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("on", "off", "off again")[: 3 if asked.control else 2]:
            begin = time.monotonic()
            answers[name] = run(plan, Path(folder), store=name == "on")
            took[name] = round(time.monotonic() - begin, 1)
        decided, disagreements = decisions.compare(Path(folder), plan.tp) if plan.tp > 1 else (0, [])
    differing = differences(answers["on"], answers["off"], plan.first)
    steps = [step for schedule in answers["on"]["schedules"] for step in schedule]
    report = {
        "schema": 1,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {name: metadata.version(name) for name in ("sglang", "torch", "transformers")},
        "plan": asdict(plan),
        "seconds": took,
        "steps": len(steps),
        "requests": sum(len(step) for step in steps),
        "differing": differing,
        "control": differences(answers["off again"], answers["off"], plan.first) if asked.control else None,
        "unsound": answers["on"]["unsound"],
        "decisions": decided,
        "disagreements": disagreements,
        "work_on": answers["on"]["state"]["work"],
        "work_off": answers["off"]["state"]["work"],
        "store": answers["on"]["state"]["store"],
    }
    asked.out.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"{len(differing)} of {plan.schedules} schedules differ, {len(report['unsound'])} unsound, "
        f"{len(disagreements)} ranks disagree; {asked.out}"
    )
    return 1 if differing or report["unsound"] or disagreements else 0


if __name__ == "__main__":
    raise SystemExit(main())
