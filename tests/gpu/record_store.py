"""Put one course of requests to an engine on a GPU, with the index store or without, and write its answers as JSON.

python record_store.py --model FOLDER --pattern FFSF --kernels sglang|ours [--store] --out FILE
"""

import argparse
import asyncio
import json
import os
import random
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

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

    import sglang

    engine = sglang.Engine(
        model_path=str(options.model),
        load_format="auto" if list(options.model.glob("*.safetensors")) else "dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        kv_cache_dtype="bfloat16",
        attention_backend="indexcache",
        dsa_prefill_backend="flashmla_sparse",
        dsa_decode_backend="flashmla_sparse",
        dsa_topk_backend=kernels["topk"],
        mem_fraction_static=0.9,
        max_total_tokens=POOL_TOKENS,
        chunked_prefill_size=8192,
        cuda_graph_max_bs_decode=4,
        max_running_requests=8,
        disable_prefill_cuda_graph=not options.prefill_graph,
        cuda_graph_bs_prefill=[64, 512] if options.prefill_graph else None,
        context_length=131072,
        random_seed=1,
        log_level="warning",
        grammar_backend="none",
    )
    try:
        vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
        steps = course(vocabulary, [int(part) for part in options.lengths.split(",")], options.times)
        found = engine.loop.run_until_complete(Course(engine.tokenizer_manager, vocabulary).run(steps))
    finally:
        engine.shutdown()
    options.out.write_text(json.dumps(found))


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
        name, asked = next(steps)
        before = 0
        while True:
            if name == "flush":
                while not (await self.manager.flush_cache()).success:
                    await asyncio.sleep(0.01)
            elif name == "abort":
                await self._abort(_tokens(20_000, self.vocabulary, 3))
            else:
                answers[name] = await self._ask(asked)
            state = await self._settle()
            reused[name], before = state["work"]["reused_rows"] - before, state["work"]["reused_rows"]
            try:
                name, asked = steps.send([answer["tokens"] for answer in answers.get(name, [])])
            except StopIteration:
                return {"answers": answers, "reused": reused, "state": state}

    async def _settle(self) -> dict[str, Any]:
        """An answer is sent while a forward with one more row may be in flight; a second round trip is after it."""
        for _ in range(2):
            found = await self.manager.get_internal_state()
        return dict(found[0]["indexcache"])

    async def _ask(self, asked: list[Ask]) -> list[dict[str, Any]]:
        from sglang.srt.managers.io_struct import ContinueGenerationReqInput, GenerateReqInput, PauseGenerationReqInput

        # Straight to the scheduler: the tokenizer manager would hold the requests back.
        await self.manager._async_dispatch_to_scheduler(PauseGenerationReqInput(mode="in_place"))
        tasks = []
        for one in asked:
            request = GenerateReqInput(
                rid=uuid4().hex,
                input_ids=one.tokens,
                sampling_params={"max_new_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True},
                return_logprob=True,
                logprob_start_len=-1,
                extra_key=one.salt,
            )
            tasks.append(asyncio.create_task(anext(self.manager.generate_request(request, None))))
            while request.rid not in self.manager.rid_to_state or not self.manager.rid_to_state[request.rid].dispatched:
                await asyncio.sleep(0.001)
        await self.manager._async_dispatch_to_scheduler(ContinueGenerationReqInput())
        return [
            {
                "tokens": answer["output_ids"],
                "log_probs": [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]],
                "cached": answer["meta_info"]["cached_tokens"],
            }
            for answer in await asyncio.gather(*tasks)
        ]

    async def _abort(self, tokens: list[int]) -> None:
        """A request that is aborted between its chunks, and one while it decodes; twice, so that a snapshot is open."""
        from sglang.srt.managers.io_struct import GenerateReqInput

        for number in range(4):
            request = GenerateReqInput(
                rid=f"aborted-{number}",
                input_ids=tokens,
                sampling_params={"max_new_tokens": 2000, "temperature": 0, "ignore_eos": True},
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
