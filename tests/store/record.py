"""Put schedules to one real engine and write down its answers; a program of its own, started by `fuzz.py`.

A process for each engine, since settings are read once a process. Use: `record.py JOB.json ANSWERS.json`.

JOB: {"engine": keyword arguments of sglang.Engine, "seeds": [seed, ...], "times": how often a request alone is
asked, "flush_every": schedules, "aborts": requests that are aborted at the end}.
ANSWERS: {"schedules": [[[[output, log_probs], ...] a step, ...], ...], "state": what /server_info says of the plugin
at the end, "unsound": [sentence, ...]}.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import decisions
import twin_engine
from schedules import Request, again, walk

# In the schedulers' processes too, which import this file again.
if os.environ.get("TEST_TWIN_STORE"):
    twin_engine.install()
if folder := os.environ.get("TEST_DECISIONS"):
    decisions.install(Path(folder))


async def ask(manager: Any, requests: list[Request]) -> list[tuple[list[int], list[float]]]:
    """Outputs of requests that the scheduler sees all at once: what runs together must not depend on arrival times."""
    from sglang.srt.managers.io_struct import ContinueGenerationReqInput, GenerateReqInput, PauseGenerationReqInput

    manager.auto_create_handle_loop()
    # An answer is sent while a forward with one more row of its request may be in flight; a second round trip
    # begins only when the scheduler has seen to that.
    for _ in range(2):
        await manager.get_internal_state()
    # Straight to the scheduler: the tokenizer manager would hold the requests back.
    await manager._async_dispatch_to_scheduler(PauseGenerationReqInput(mode="in_place"))
    tasks = []
    for request in requests:
        sampling: dict[str, Any] = {"temperature": 0, "max_new_tokens": request.new_tokens, "ignore_eos": True}
        if request.raised:
            sampling["logit_bias"] = {str(token): 3.0 for token in request.raised}
        asked = GenerateReqInput(
            rid=uuid4().hex,
            input_ids=request.tokens,
            sampling_params=sampling,
            return_logprob=True,
            logprob_start_len=-1,
            extra_key=request.salt,
        )
        tasks.append(asyncio.create_task(anext(manager.generate_request(asked, None))))
        while asked.rid not in manager.rid_to_state or not manager.rid_to_state[asked.rid].dispatched:
            await asyncio.sleep(0.001)
    await manager._async_dispatch_to_scheduler(ContinueGenerationReqInput())
    answers = await asyncio.gather(*tasks)
    return [
        (answer["output_ids"], [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]])
        for answer in answers
    ]


async def abort(manager: Any, requests: list[Request]) -> None:
    """Start requests and abort them while they run or wait."""
    from sglang.srt.managers.io_struct import GenerateReqInput

    for number, request in enumerate(requests):
        asked = GenerateReqInput(
            rid=f"aborted-{number}",
            input_ids=request.tokens,
            sampling_params={"temperature": 0, "max_new_tokens": 300, "ignore_eos": True},
            stream=True,
        )
        answers = manager.generate_request(asked, None)
        await anext(answers)
        manager.abort_request(rid=asked.rid)
        async for _ in answers:
            pass


async def state(manager: Any) -> dict[str, Any]:
    """What /server_info says of the plugin."""
    found = (await manager.get_internal_state())[0]
    return dict(found["indexcache"])


def unsound(store: dict[str, int]) -> str | None:
    """What is wrong with the store's gauges at idle, or None."""
    if store["live"] or store["requests"]:
        return f"{store['live']} slots are written at idle"
    if store["free"] + store["held"] != store["slots"]:
        return f"{store['free']} free and {store['held']} held are not {store['slots']} slots"
    return None


def main(job_file: Path, answers_file: Path) -> None:
    import sglang

    job = json.loads(job_file.read_text())
    engine = sglang.Engine(**job["engine"])
    run, manager = engine.loop.run_until_complete, engine.tokenizer_manager
    schedules, wrong = [], []
    found: dict[str, Any] = {}
    try:
        for number, seed in enumerate(job["seeds"]):
            answers = []
            steps = again(walk(seed), job["times"])
            step = next(steps)
            while True:
                answered = run(ask(manager, step))
                answers.append(answered)
                try:
                    step = steps.send([output for output, _ in answered])
                except StopIteration:
                    break
            schedules.append(answers)
            found = run(state(manager))
            if found["store"] is not None and (sentence := unsound(found["store"])):
                wrong.append(f"schedule {seed}: {sentence}")
            if number % job["flush_every"] == job["flush_every"] - 1:
                # Right after an answer the scheduler may still be busy; it says so, and both engines must flush.
                while not run(manager.flush_cache()).success:
                    pass
        run(abort(manager, [Request([n] * 50, 1) for n in range(job["aborts"])]))
        found = run(state(manager))
        if found["store"] is not None and (sentence := unsound(found["store"])):
            wrong.append(f"after aborts: {sentence}")
    finally:
        engine.shutdown()
    answers_file.write_text(json.dumps({"schedules": schedules, "state": found, "unsound": wrong}))


# The engine's own processes are spawned and import this file again.
if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
