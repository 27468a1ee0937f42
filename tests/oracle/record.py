"""Run one job on a real engine and write down what it answered; a program of its own, started by the tests.

The engine is gone, with the processor time that its idle scheduler takes, before the reference starts.
Use: `python -m tests.oracle.record JOB.json ANSWERS.json`.

JOB: {"engine": keyword arguments of sglang.Engine, "steps": [[request, ...], ...]}; the requests of a step
run as one batch, the steps one after another. A request: {"name", "tokens", "new_tokens", "logprob_start"}.
ANSWERS: {name: {"output", "cached", "prompt_log_probs": [[value or null, token], ...], "output_log_probs",
"selections": base64 of int32 [tokens - 1, layers, topk]}}.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ..engine import ask, engine, greedy


def ask_step(started: Any, step: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run one batch, greedily, for exactly as many tokens as its requests name."""
    answers: list[dict[str, Any]] = ask(
        started,
        input_ids=[item["tokens"] for item in step],
        sampling_params=[greedy(item["new_tokens"]) for item in step],
        return_logprob=[True] * len(step),
        logprob_start_len=[item["logprob_start"] for item in step],
        return_indexer_topk=True,
    )
    return answers


def main(job_file: Path, answers_file: Path) -> None:
    job = json.loads(job_file.read_text())
    answers = {}
    with engine(**job["engine"]) as started:
        for step in job["steps"]:
            for item, answer in zip(step, ask_step(started, step), strict=True):
                meta = answer["meta_info"]
                answers[item["name"]] = {
                    "output": answer["output_ids"],
                    "cached": meta["cached_tokens"],
                    "prompt_log_probs": [entry[:2] for entry in meta["input_token_logprobs"]],
                    "output_log_probs": [entry[:2] for entry in meta["output_token_logprobs"]],
                    "selections": meta["indexer_topk"],
                }
    answers_file.write_text(json.dumps(answers))


# The engine's own processes are spawned and import this file again.
if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
