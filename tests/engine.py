"""Real engines for tests: a program with an engine in it, and what is asked of that engine.

Settings are read once a process, and an idle scheduler takes processor time; so every engine has a process of its own.
A test calls `run_job` or `run_program`; the program that these start uses `engine` and asks. Standard library alone at
the top: an engine's own processes are spawned and import their program again.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).resolve().parents[1]
CPU_ENGINE = {
    "device": "cpu",
    "attention_backend": "indexcache",
    "mem_fraction_static": 0.3,
    "random_seed": 0,
    "log_level": "error",
}
"""What every engine on the CPU is started with: keyword arguments of sglang.Engine."""
GPU_ENGINE = {
    "skip_tokenizer_init": True,
    "dtype": "bfloat16",
    "dsa_prefill_backend": "flashmla_sparse",
    "mem_fraction_static": 0.9,
    "chunked_prefill_size": 8192,
    "context_length": 131072,
    "random_seed": 1,
    "log_level": "warning",
    "grammar_backend": "none",
}
"""The same on a GPU."""
LAST_CHARACTERS = 6000


def run_program(program: Sequence[str], log: Path, environment: Mapping[str, str], timeout: float) -> None:
    """Run `python *program` in the repository's root to its end; what it prints goes to `log`.

    program     a file, or -m and a module; then its arguments
    environment all of it
    timeout     seconds
    Raises AssertionError with the end of the log when the program fails or takes longer.
    """
    with log.open("w") as output:
        # In a session of its own, so that a time-out ends the engine's children too.
        process = subprocess.Popen(
            [sys.executable, *program],
            cwd=ROOT,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = f"time-out after {timeout:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert status == 0, f"{' '.join(program)} ended with {status}:\n{log.read_text()[-LAST_CHARACTERS:]}"


def run_job(
    module: str, job: dict[str, Any], folder: Path, name: str, environment: Mapping[str, str], timeout: float
) -> dict[str, Any]:
    """The answers of `python -m module JOB.json ANSWERS.json`; these files and a log, called `name`, go to `folder`."""
    job_file, answers_file = folder / f"{name}.job.json", folder / f"{name}.answers.json"
    job_file.write_text(json.dumps(job))
    run_program(["-m", module, str(job_file), str(answers_file)], folder / f"{name}.log", environment, timeout)
    return dict(json.loads(answers_file.read_text()))


def cpu_environment(**variables: str) -> dict[str, str]:
    """This process's environment without settings of the plugin, for an engine on the CPU; and `variables`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SGL_INDEXCACHE_")}
    return {**own, "SGLANG_USE_CPU_ENGINE": "1", **variables}


@contextmanager
def engine(**arguments: Any) -> Iterator[Any]:
    """An sglang.Engine in this process, ended with everything that it started."""
    import sglang

    started = sglang.Engine(**arguments)
    try:
        yield started
    finally:
        started.shutdown()


def greedy(new_tokens: int, **parameters: Any) -> dict[str, Any]:
    """Sampling parameters: the likeliest tokens, exactly so many."""
    return {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True, **parameters}


def ask(engine: Any, **fields: Any) -> Any:
    """The engine's answer to one request, or its answers to a batch, of these fields of SGLang's GenerateReqInput.

    Engine.generate does not pass return_indexer_topk on (0.5.17), so the request is built here.
    """
    from sglang.srt.managers.io_struct import GenerateReqInput

    stream = engine.tokenizer_manager.generate_request(GenerateReqInput(**fields), None)
    return engine.loop.run_until_complete(anext(stream))


async def ask_together(manager: Any, requests: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers to requests that the scheduler sees all at once: what runs together must not depend on arrival times.

    manager     the engine's tokenizer manager
    requests    fields of SGLang's GenerateReqInput each
    """
    from sglang.srt.managers.io_struct import ContinueGenerationReqInput, GenerateReqInput, PauseGenerationReqInput

    # Straight to the scheduler: the tokenizer manager would hold the requests back.
    await manager._async_dispatch_to_scheduler(PauseGenerationReqInput(mode="in_place"))
    tasks = []
    for fields in requests:
        request = GenerateReqInput(rid=uuid4().hex, **fields)
        tasks.append(asyncio.create_task(anext(manager.generate_request(request, None))))
        while request.rid not in manager.rid_to_state or not manager.rid_to_state[request.rid].dispatched:
            await asyncio.sleep(0.001)
    await manager._async_dispatch_to_scheduler(ContinueGenerationReqInput())
    return list(await asyncio.gather(*tasks))


async def settled_state(manager: Any) -> dict[str, Any]:
    """What /server_info says of the plugin once no forward is in flight.

    An answer is sent while a forward with one more row of its request may be running; a second round trip begins only
    when the scheduler has seen to that.
    """
    for _ in range(2):
        states = await manager.get_internal_state()
    return dict(states[0]["indexcache"])


def log_probs(answer: dict[str, Any]) -> list[float]:
    """Log-probabilities of the tokens that were generated."""
    return [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]]
