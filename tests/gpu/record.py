"""Serve one configuration of a DSA model with dummy weights and write its answers as JSON.

python record.py --model FOLDER --backend dsa|indexcache --pattern FFFF --out FILE
"""

import argparse
import json
import os
import random


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--kv", default="bfloat16")
    parser.add_argument("--lengths", default="100,2048,2049,10000")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    override = {"index_topk_pattern": options.pattern}
    if options.backend == "indexcache":
        os.environ["SGL_INDEXCACHE_PATTERN"] = options.pattern
        override = {}

    import sglang

    engine = sglang.Engine(
        model_path=options.model,
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        kv_cache_dtype=options.kv,
        attention_backend=options.backend,
        dsa_prefill_backend="flashmla_sparse",
        dsa_decode_backend="flashmla_sparse",
        mem_fraction_static=0.7,
        chunked_prefill_size=8192,
        cuda_graph_max_bs_decode=8,
        max_running_requests=16,
        disable_prefill_cuda_graph=True,
        context_length=131072,
        random_seed=1,
        log_level="warning",
        grammar_backend="none",
        json_model_override_args=json.dumps(override),
    )
    rng = random.Random(7)
    answers = {}

    def ask(name: str, prompts: list[list[int]]) -> None:
        results = engine.generate(
            input_ids=prompts,
            sampling_params={"max_new_tokens": 16, "temperature": 0, "ignore_eos": True},
            return_logprob=True,
        )
        answers[name] = [
            {
                "tokens": result["output_ids"],
                "log_probs": [entry[0] for entry in result["meta_info"]["output_token_logprobs"]],
                "cached": result["meta_info"]["cached_tokens"],
            }
            for result in results
        ]

    for length in map(int, options.lengths.split(",")):
        prompt = [rng.randrange(10, 150_000) for _ in range(length)]
        ask(f"cold.{length}", [prompt])
        ask(f"warm.{length}", [prompt + [rng.randrange(10, 150_000) for _ in range(300)]])
        ask(f"repeat.{length}", [prompt])
    base = [rng.randrange(10, 150_000) for _ in range(3000)]
    ask("batch", [base[: 700 * i] + [i] * 9 for i in range(1, 5)])
    info = engine.get_server_info()
    answers["state"] = info["internal_states"][0].get("indexcache")
    with open(options.out, "w") as file:
        json.dump(answers, file)
    engine.shutdown()


if __name__ == "__main__":
    main()
