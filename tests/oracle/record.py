"""Run one job on a real engine and write down what it answered; a program of its own, started by the tests.

A process for each engine: settings are read once a process, and the engine is gone, with the processor time
that its idle scheduler takes, before the reference starts. Use: `record.py JOB.json ANSWERS.json`.

JOB: {"engine": keyword arguments of sglang.Engine, "steps": [[request, ...], ...]}; the requests of a step
run as one batch, the steps one after another. A request: {"name", "tokens", "new_tokens", "logprob_start"}.
ANSWERS: {name: {"output", "cached", "prompt_log_probs": [[value or null, token], ...], "output_log_probs",
"selections": base64 of int32 [tokens - 1, layers, topk]}}.
"""

import json
import sys
from pathlib import Path
from typing import Any


def ask(engine: Any, step: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run one batch, greedily, for exactly as many tokens as asked for."""
    from sglang.srt.managers.io_struct import GenerateReqInput

    # Engine.generate does not pass return_indexer_topk on (0.5.17), so the request is built here.
    request = GenerateReqInput(
        input_ids=[item["tokens"] for item in step],
        sampling_params=[{"temperature": 0, "max_new_tokens": item["new_tokens"], "ignore_eos": True} for item in step],
        return_logprob=[True] * len(step),
        logprob_start_len=[item["logprob_start"] for item in step],
        return_indexer_topk=True,
    )
    stream = engine.tokenizer_manager.generate_request(request, None)
    answers: list[dict[str, Any]] = engine.loop.run_until_complete(anext(stream))
    return answers


def main(job_file: Path, answers_file: Path) -> None:
    import sglang

    job = json.loads(job_file.read_text())
    engine = sglang.Engine(**job["engine"])
    answers = {}
    try:
        for step in job["steps"]:
            for item, answer in zip(step, ask(engine, step), strict=True):
                meta = answer["meta_info"]
                answers[item["name"]] = {
                    "output": answer["output_ids"],
                    "cached": meta["cached_tokens"],
                    "prompt_log_probs": [entry[:2] for entry in meta["input_token_logprobs"]],
                    "output_log_probs": [entry[:2] for entry in meta["output_token_logprobs"]],
                    "selections": meta["indexer_topk"],
                }
    finally:
        engine.shutdown()
    answers_file.write_text(json.dumps(answers))


# The engine's own processes are spawned and import this file again.
if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
