"""Put schedules to one real engine and write down its answers; a program of its own, started by `run.py`.

Use: `python -m tests.store.fuzz.record JOB.json ANSWERS.json`.

JOB: {"engine": keyword arguments of sglang.Engine, "seeds": [seed, ...], "times": how often a request alone is
asked, "flush_every": schedules, "aborts": requests that are aborted at the end}.
ANSWERS: {"schedules": [[[[output, log_probs], ...] a step, ...], ...], "state": what /server_info says of the plugin
at the end, "unsound": [sentence, ...]}.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from ...engine import ask_together, engine, greedy, log_probs, settled_state
from . import decisions, whole_prefill_engine
from .schedules import Request, again, walk

# In the schedulers' processes too, which import this file again.
if os.environ.get("TEST_TWIN_STORE"):
    whole_prefill_engine.install()
if folder := os.environ.get("TEST_DECISIONS"):
    decisions.install(Path(folder))


async def ask(manager: Any, requests: list[Request]) -> list[tuple[list[int], list[float]]]:
    """Outputs of requests that the scheduler sees all at once."""
    manager.auto_create_handle_loop()
    await settled_state(manager)
    answers = await ask_together(manager, [_fields(request) for request in requests])
    return [(answer["output_ids"], log_probs(answer)) for answer in answers]


def _fields(request: Request) -> dict[str, Any]:
    raised = {"logit_bias": {str(token): 3.0 for token in request.raised}} if request.raised else {}
    return {
        "input_ids": request.tokens,
        "sampling_params": greedy(request.new_tokens, **raised),
        "return_logprob": True,
        "logprob_start_len": -1,
        "extra_key": request.salt,
    }


async def abort(manager: Any, requests: list[Request]) -> None:
    """Start requests and abort them while they run or wait."""
    from sglang.srt.managers.io_struct import GenerateReqInput

    for number, request in enumerate(requests):
        begun = GenerateReqInput(
            rid=f"aborted-{number}", input_ids=request.tokens, sampling_params=greedy(300), stream=True
        )
        answers = manager.generate_request(begun, None)
        await anext(answers)
        manager.abort_request(rid=begun.rid)
        async for _ in answers:
            pass


def unsound(store: dict[str, int]) -> str | None:
    """What is wrong with the store's gauges at idle, or None."""
    if store["live"] or store["requests"]:
        return f"{store['live']} slots are written at idle"
    if store["free"] + store["held"] != store["slots"]:
        return f"{store['free']} free and {store['held']} held are not {store['slots']} slots"
    return None


def main(job_file: Path, answers_file: Path) -> None:
    job = json.loads(job_file.read_text())
    schedules, wrong = [], []
    state: dict[str, Any] = {}
    with engine(**job["engine"]) as started:
        run, manager = started.loop.run_until_complete, started.tokenizer_manager
        for number, seed in enumerate(job["seeds"]):
            answers = []
            steps = again(walk(seed), job["times"])
            step = next(steps)
            while True:
                outputs = run(ask(manager, step))
                answers.append(outputs)
                try:
                    step = steps.send([output for output, _ in outputs])
                except StopIteration:
                    break
            schedules.append(answers)
            state = run(settled_state(manager))
            if state["store"] is not None and (sentence := unsound(state["store"])):
                wrong.append(f"schedule {seed}: {sentence}")
            if number % job["flush_every"] == job["flush_every"] - 1:
                # Right after an answer the scheduler may still be busy; it says so, and both engines must flush.
                while not run(manager.flush_cache()).success:
                    pass
        run(abort(manager, [Request([n] * 50, 1) for n in range(job["aborts"])]))
        state = run(settled_state(manager))
        if state["store"] is not None and (sentence := unsound(state["store"])):
            wrong.append(f"after aborts: {sentence}")
    answers_file.write_text(json.dumps({"schedules": schedules, "state": state, "unsound": wrong}))


# The engine's own processes are spawned and import this file again.
if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
