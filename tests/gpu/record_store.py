"""Put one course of requests to an engine on a GPU, with the index store or without, and write its answers as JSON.

python record_store.py --model FOLDER --pattern FFSF --kernels sglang|ours [--store] --out FILE
"""

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# At the end of the path: the installed project is what is tested, not the folder of its source.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from tests.engine import GPU_ENGINE, ask_together, engine, greedy, log_probs, settled_state

NEW_TOKENS = 16
# Holds the longest prompt and little besides, so that prefixes are evicted.
POOL_TOKENS = 100_000
# Some snapshots of three Full layers: these are given up for each other too.
SNAPSHOT_MIB = 8
# Selections that are the same twice, in two of SGLang's three forms: its own top-k orders them by atomics.
KERNELS = {
    "sglang": {"indexer": "sglang", "topk": "torch", "fused": "false"},
    "ours": {"indexer": "ours", "topk": "sgl-kernel", "fused": "true"},
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    tokens: list[int]
    salt: str | None = None


Step = tuple[str, list[Ask]]
"""A name and the requests that are admitted together; without any, the engine is asked to do what the name says."""
Steps = Generator[Step, list[list[int]], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--kernels", choices=KERNELS, default="sglang")
    parser.add_argument("--prefill-graph", action="store_true")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--lengths", default="3000,10000,70000", help="three prompts")
    parser.add_argument("--times", type=int, default=4, help="how often each is asked")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    kernels = KERNELS[options.kernels]
    os.environ |= {
        "SGLANG_DSA_FUSE_TOPK": kernels["fused"],
        "SGL_INDEXCACHE_PATTERN": options.pattern,
        "SGL_INDEXCACHE_KERNELS__INDEXER": kernels["indexer"],
        "SGL_INDEXCACHE_KERNELS__PREFILL": "sglang",
        "SGL_INDEXCACHE_KERNELS__DECODE": "sglang",
        "SGL_INDEXCACHE_STORE__ENABLED": str(options.store).lower(),
        "SGL_INDEXCACHE_STORE__SNAPSHOT_MIB": str(SNAPSHOT_MIB),
        "SGL_INDEXCACHE_STORE__SELF_CHECK": "true",
    }

    arguments = {
        **GPU_ENGINE,
        "model_path": str(options.model),
        "load_format": "auto" if list(options.model.glob("*.safetensors")) else "dummy",
        "kv_cache_dtype": "bfloat16",
        "attention_backend": "indexcache",
        "dsa_decode_backend": "flashmla_sparse",
        "dsa_topk_backend": kernels["topk"],
        "max_total_tokens": POOL_TOKENS,
        "cuda_graph_max_bs_decode": 4,
        "max_running_requests": 8,
        "disable_prefill_cuda_graph": not options.prefill_graph,
        "cuda_graph_bs_prefill": [64, 512] if options.prefill_graph else None,
    }
    with engine(**arguments) as started:
        vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
        steps = course(vocabulary, [int(part) for part in options.lengths.split(",")], options.times)
        answers = started.loop.run_until_complete(Course(started.tokenizer_manager, vocabulary).run(steps))
    options.out.write_text(json.dumps(answers))


def course(vocabulary: int, lengths: list[int], times: int) -> Steps:
    """What is asked, step by step; is sent the tokens of each step's answers."""
    prompts = {length: _tokens(length, vocabulary, length) for length in lengths}
    talk: list[int] = []
    for length, prompt in prompts.items():
        for time in range(times):
            answers = yield f"repeat.{length}.{time}", [Ask(prompt)]
            talk = talk or prompt + answers[0]
    for turn in range(2):
        talk = talk + _tokens(300, vocabulary, 1, turn)
        for time in range(3):
            answers = yield f"turn.{turn}.{time}", [Ask(talk)]
        talk = talk + answers[0]
    short = prompts[lengths[0]]
    for time in range(3):
        yield f"salt.a.{time}", [Ask(short, "a")]
    yield "salt.b", [Ask(short, "b")]
    yield "salt.a.again", [Ask(short, "a")]
    # Two at once are not alone in their forward.
    yield "pair", [Ask(short), Ask(short, "a")]
    yield "abort", []
    yield "flush", []
    for time in range(3):
        yield f"flushed.{time}", [Ask(prompts[lengths[1]])]
    pressing = [_tokens(30_000, vocabulary, 2, number) for number in range(4)]
    for number, prompt in enumerate(pressing):
        for time in range(3):
            yield f"press.{number}.{time}", [Ask(prompt)]
    for time in range(3):
        yield f"evicted.{time}", [Ask(pressing[0])]
    yield "flush", []


def _tokens(count: int, vocabulary: int, *key: int) -> list[int]:
    rng = random.Random(repr(key))
    return [rng.randrange(10, min(vocabulary, 150_000)) for _ in range(count)]


class Course:
    """Walks the course with one engine."""

    def __init__(self, manager: Any, vocabulary: int) -> None:
        self.manager = manager
        self.vocabulary = vocabulary

    async def run(self, steps: Steps) -> dict[str, Any]:
        """Answers by step, rows that each step reused, and what /server_info says at the end."""
        answers: dict[str, Any] = {}
        reused: dict[str, int] = {}
        self.manager.auto_create_handle_loop()
        name, requests = next(steps)
        before = 0
        while True:
            if name == "flush":
                while not (await self.manager.flush_cache()).success:
                    await asyncio.sleep(0.01)
            elif name == "abort":
                await self._abort(_tokens(20_000, self.vocabulary, 3))
            else:
                answers[name] = await self._ask(requests)
            state = await settled_state(self.manager)
            reused[name], before = state["work"]["reused_rows"] - before, state["work"]["reused_rows"]
            try:
                name, requests = steps.send([answer["tokens"] for answer in answers.get(name, [])])
            except StopIteration:
                return {"answers": answers, "reused": reused, "state": state}

    async def _ask(self, requests: list[Ask]) -> list[dict[str, Any]]:
        fields = [
            {
                "input_ids": request.tokens,
                "sampling_params": greedy(NEW_TOKENS),
                "return_logprob": True,
                "logprob_start_len": -1,
                "extra_key": request.salt,
            }
            for request in requests
        ]
        return [
            {
                "tokens": answer["output_ids"],
                "log_probs": log_probs(answer),
                "cached": answer["meta_info"]["cached_tokens"],
            }
            for answer in await ask_together(self.manager, fields)
        ]

    async def _abort(self, tokens: list[int]) -> None:
        """A request that is aborted between its chunks, and one while it decodes; twice, so that a snapshot is open."""
        from sglang.srt.managers.io_struct import GenerateReqInput

        for number in range(4):
            request = GenerateReqInput(
                rid=f"aborted-{number}",
                input_ids=tokens,
                sampling_params=greedy(2000),
                stream=True,
            )
            answers = self.manager.generate_request(request, None)
            if number:
                await anext(answers)
                self.manager.abort_request(rid=request.rid)
            else:
                asyncio.get_running_loop().call_later(0.03, self._abort_if_there, request.rid)
            try:
                async for _ in answers:
                    pass
            except ValueError:  # how an abort before the first token is told
                pass

    def _abort_if_there(self, rid: str) -> None:
        if rid in self.manager.rid_to_state:
            self.manager.abort_request(rid=rid)


# The engine's own processes are spawned and import this file again.
if __name__ == "__main__":
    main()
