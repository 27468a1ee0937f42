"""Serve one configuration of a DSA model on a GPU and write its answers as JSON.

python record.py --model FOLDER --backend dsa|indexcache --pattern FFSF --kernels sglang|ours --out FILE
"""

import argparse
import asyncio
import base64
import json
import os
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

# At the end of the path: the installed project is what is tested, not the folder of its source.
sys.path.append(str(Path(__file__).resolve().parents[2]))
from tests.engine import GPU_ENGINE, ask, engine, greedy, log_probs

KERNELS = {
    "sglang": {"INDEXER": "sglang", "PREFILL": "sglang", "DECODE": "sglang"},
    "ours": {"INDEXER": "ours", "PREFILL": "flashinfer", "DECODE": "flashinfer"},
    "fp8": {"INDEXER": "ours", "PREFILL": "sglang", "DECODE": "sglang"},
}
NEW_TOKENS = 16
WARM_TOKENS = 300
SCORED_TOKENS = 64
EVERY = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--kernels", choices=KERNELS, default="sglang")
    parser.add_argument("--topk", choices=("sgl-kernel", "torch"), default="sgl-kernel", help="SGLang's selection")
    parser.add_argument("--kv", default="bfloat16")
    parser.add_argument("--lengths", default="100,2048,2049,4095,4096,4097,10000,70000")
    parser.add_argument("--prefill-graph", action="store_true")
    parser.add_argument("--schedules", type=int, default=0)
    parser.add_argument("--two-level", help="shortlist of two-level scoring, in keys; exact if not given")
    parser.add_argument("--floor", default="0.0", help="of the recall guard")
    parser.add_argument("--selections", default="", help="lengths of prompts whose selections in layer 0 are recorded")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    override = {}
    if options.backend == "indexcache":
        os.environ["SGL_INDEXCACHE_PATTERN"] = options.pattern
        for name, value in KERNELS[options.kernels].items():
            os.environ[f"SGL_INDEXCACHE_KERNELS__{name}"] = value
    else:
        os.environ["SGL_INDEXCACHE_ENABLED"] = "false"
        override = {"index_topk_pattern": options.pattern}
    if options.two_level:
        os.environ |= {
            "SGL_INDEXCACHE_SCORING__MODE": "two_level",
            "SGL_INDEXCACHE_SCORING__MIN_SAVED_SCORES": "0",
            "SGL_INDEXCACHE_SCORING__SHORTLIST": options.two_level,
            "SGL_INDEXCACHE_SCORING__RECALL_FLOOR": options.floor,
            "SGL_INDEXCACHE_SCORING__SAMPLE_ROWS": "16",
            "SGL_INDEXCACHE_SCORING__DECODE_ROWS": "1",
        }
    if options.topk == "torch":
        os.environ["SGLANG_DSA_FUSE_TOPK"] = "false"  # the torch selection has no fused form

    fp8 = options.kv != "bfloat16"
    arguments = {
        **GPU_ENGINE,
        "model_path": str(options.model),
        "load_format": "auto" if list(options.model.glob("*.safetensors")) else "dummy",
        "kv_cache_dtype": options.kv,
        "attention_backend": options.backend,
        "dsa_decode_backend": "flashmla_kv" if fp8 else "flashmla_sparse",
        "dsa_topk_backend": options.topk,
        "max_total_tokens": 400_000,
        "cuda_graph_max_bs_decode": 8,
        "max_running_requests": 16,
        # Only requests without log-probabilities are mixed (Scheduler.get_new_batch_prefill). SGLang's own backend
        # fails on a mixed forward over fp8 KV: "kv must have dtype torch::kBFloat16".
        "enable_mixed_chunk": not fp8,
        "disable_prefill_cuda_graph": not options.prefill_graph,
        "cuda_graph_bs_prefill": [64, 128, 512, 2048] if options.prefill_graph else None,
        "enable_return_indexer_topk": bool(options.selections),
        "json_model_override_args": json.dumps(override),
    }
    with engine(**arguments) as started:
        answers = record(started, options, mixed=not fp8)
    options.out.write_text(json.dumps(answers))


def record(engine: Any, options: argparse.Namespace, *, mixed: bool) -> dict[str, Any]:
    """All answers of one engine."""
    config = json.loads((options.model / "config.json").read_text())
    vocabulary, layers = config["vocab_size"], config["num_hidden_layers"]
    recorder = Recorder(engine, vocabulary)
    # First, so that the counters are those of these prompts alone.
    selections = {
        length: [recorder.selections(int(length), layers), counters(engine)]
        for length in filter(None, options.selections.split(","))
    }
    decoded = {
        length: [counters(engine), recorder.decoded(int(length), layers), counters(engine)] for length in selections
    }
    answers = recorder.all([int(part) for part in options.lengths.split(",") if part])
    if selections:
        answers["selections"], answers["decoded"] = selections, decoded
    if mixed:
        answers["mixed"] = Mixed(engine, vocabulary).run()
    answers["state"] = engine.get_server_info()["internal_states"][0].get("indexcache")
    if options.schedules:
        answers["schedules"] = Schedules(engine, vocabulary).run(options.schedules)
        engine.flush_cache()
        answers["after"] = Recorder(engine, vocabulary).cold(2049)
    return answers


def counters(engine: Any) -> Any:
    """What two-level scoring counted so far."""
    return engine.get_server_info()["internal_states"][0].get("indexcache", {}).get("two_level")


class Recorder:
    """Asks the same questions of every engine."""

    def __init__(self, engine: Any, vocabulary: int) -> None:
        self.engine = engine
        self.vocabulary = min(vocabulary, 150_000)

    def tokens(self, count: int, *key: int) -> list[int]:
        rng = random.Random(repr(key))
        return [rng.randrange(10, self.vocabulary) for _ in range(count)]

    def all(self, lengths: list[int]) -> dict[str, Any]:
        """Cold, warm and repeated prompts of every length, and a batch that shares a prefix."""
        answers: dict[str, Any] = {}
        for length in lengths:
            prompt = self.tokens(length, length)
            answers[f"cold.{length}"] = self.cold(length)
            answers[f"warm.{length}"] = self.ask([prompt + self.tokens(WARM_TOKENS, length, 1)])
            answers[f"repeat.{length}"] = self.ask([prompt])
        base = self.tokens(3000, 0)
        answers["batch"] = self.ask([base[: 700 * i] + [i + 10] * 9 for i in range(1, 5)])
        return answers

    def cold(self, length: int) -> list[dict[str, Any]]:
        """A prompt whose last tokens are scored too, so that more than the generated ones are compared."""
        return self.ask([self.tokens(length, length)], scored_from=max(0, length - SCORED_TOKENS))

    def selections(self, length: int, layers: int) -> list[str]:
        """Selections in layer 0, whose inputs no selection has changed, of every EVERY-th row of a cold prompt."""
        return self._selections(self.tokens(length, length, 2), 1, layers)[::EVERY]

    def decoded(self, length: int, layers: int) -> list[str]:
        """Selections in layer 0 of the rows that are decoded after another cold prompt."""
        return self._selections(self.tokens(length, length, 3), NEW_TOKENS, layers)[length:]

    def _selections(self, prompt: list[int], new_tokens: int, layers: int) -> list[str]:
        result = ask(self.engine, input_ids=prompt, sampling_params=greedy(new_tokens), return_indexer_topk=True)
        packed = result["meta_info"]["indexer_topk"]
        flat = (
            np.frombuffer(base64.b64decode(packed), dtype=np.int32) if isinstance(packed, str) else np.asarray(packed)
        )
        rows = flat.reshape(len(prompt) + new_tokens - 1, layers, -1)[:, 0]
        return [base64.b64encode(zlib.compress(row.astype(np.int32).tobytes())).decode() for row in rows]

    def ask(self, prompts: list[list[int]], scored_from: int | None = None) -> list[dict[str, Any]]:
        results = self.engine.generate(
            input_ids=prompts,
            sampling_params=greedy(NEW_TOKENS),
            return_logprob=True,
            **({} if scored_from is None else {"logprob_start_len": scored_from}),
        )
        return [
            {
                "tokens": result["output_ids"],
                "log_probs": log_probs(result),
                "prompt_log_probs": [
                    entry[0] for entry in result["meta_info"].get("input_token_logprobs") or [] if entry[0] is not None
                ],
                "cached": result["meta_info"]["cached_tokens"],
            }
            for result in results
        ]


class Mixed:
    """Prompts in chunks, with the decode steps of other requests in the same forwards.

    Which rows meet in a forward follows from the order of arrival, and all arrive while the first prompt is prefilled.
    """

    ROUNDS, BUSY, SHORT, LONG, SHORTS, STEPS = 3, 20_000, 1500, 40_000, 3, 32

    def __init__(self, engine: Any, vocabulary: int) -> None:
        self.engine = engine
        self.tokens = Recorder(engine, vocabulary).tokens

    def run(self) -> list[dict[str, Any]]:
        """Of every round: the tokens of its short requests and of its long one, and how many tokens each short one
        had by the time that the long prompt was through."""
        return [self.engine.loop.run_until_complete(self._round(number)) for number in range(self.ROUNDS)]

    async def _round(self, number: int) -> dict[str, Any]:
        progress: dict[str, int] = {}
        prompts = {"busy": self.tokens(self.BUSY, 7, number)}
        prompts |= {f"short.{i}": self.tokens(self.SHORT, 8, number, i) for i in range(self.SHORTS)}
        prompts["long"] = self.tokens(self.LONG, 9, number)
        outputs = await asyncio.gather(*(self._ask(name, prompt, progress) for name, prompt in prompts.items()))
        tokens = dict(zip(prompts, outputs, strict=True))
        return {
            "short": [tokens[f"short.{i}"] for i in range(self.SHORTS)],
            "long": tokens["long"],
            "meanwhile": [progress[f"short.{i} by long"] for i in range(self.SHORTS)],
        }

    async def _ask(self, name: str, prompt: list[int], progress: dict[str, int]) -> list[int]:
        steps = 1 if name == "busy" else self.STEPS
        answer: dict[str, Any] = {}
        tokens: list[int] = []
        stream = await self.engine.async_generate(
            input_ids=prompt,
            sampling_params=greedy(steps),
            stream=True,
        )
        async for answer in stream:
            tokens = answer["output_ids"]
            if name == "long" and "long" not in progress:
                progress |= {f"{other} by long": count for other, count in progress.items()}
            progress[name] = answer["meta_info"]["completion_tokens"]
        return tokens


class Schedules:
    """Random mixes of prefill, decode and abort on one engine, over prefixes that requests share."""

    def __init__(self, engine: Any, vocabulary: int) -> None:
        self.engine = engine
        self.rng = random.Random(11)
        self.vocabulary = min(vocabulary, 150_000)
        self.bases = [[self.rng.randrange(10, self.vocabulary) for _ in range(9000)] for _ in range(3)]

    def run(self, count: int) -> dict[str, int]:
        """Counts of finished and aborted requests, and of answers that are not what was asked for."""
        totals = {"finished": 0, "aborted": 0, "wrong": 0}
        for number in range(count):
            for outcome in self.engine.loop.run_until_complete(self._one(number)):
                totals[outcome] += 1
        return totals

    async def _one(self, number: int) -> list[str]:
        requests = [self._request(f"s{number}-{i}") for i in range(self.rng.randint(1, 5))]
        return list(await asyncio.gather(*requests))

    async def _request(self, rid: str) -> str:
        rng = self.rng
        base = rng.choice(self.bases)
        prompt = base[: rng.choice([0, 63, 64, 65, 2047, 2048, rng.randrange(9000)])]
        prompt = prompt + [rng.randrange(10, self.vocabulary) for _ in range(rng.choice([1, 2, 64, 500, 2500]))]
        new_tokens = rng.randint(1, NEW_TOKENS)
        abort_after = rng.uniform(0, 0.06) if rng.random() < 0.3 else None
        await asyncio.sleep(rng.uniform(0, 0.02))
        if abort_after is not None:
            self.engine.loop.call_later(abort_after, self._abort, rid)
        try:
            answer = await self.engine.async_generate(
                input_ids=prompt,
                sampling_params=greedy(new_tokens),
                return_logprob=True,
                rid=rid,
            )
        except ValueError:
            return "aborted" if abort_after is not None else "wrong"
        if answer["meta_info"]["finish_reason"]["type"] == "abort":
            return "aborted" if abort_after is not None else "wrong"
        values = log_probs(answer)
        good = len(values) == new_tokens and all(value == value and value <= 0 for value in values)
        return "finished" if good else "wrong"

    def _abort(self, rid: str) -> None:
        # A request that has ended meanwhile is nothing to abort.
        if rid in self.engine.tokenizer_manager.rid_to_state:
            self.engine.tokenizer_manager.abort_request(rid=rid)


if __name__ == "__main__":
    main()
