"""Print the answers of an engine that does not use the plugin. Use: `python -m tests.serving.plain_engine MODEL`."""

import json
import sys

from ..engine import CPU_ENGINE, engine, greedy


def main(model: str) -> None:
    arguments = {**CPU_ENGINE, "attention_backend": "torch_native", "dtype": "float32", "page_size": 1}
    arguments |= {"skip_tokenizer_init": True, "max_total_tokens": 4096, "grammar_backend": "none"}
    with engine(model_path=model, **arguments) as started:
        answers = started.generate(
            input_ids=[list(range(200)), list(range(90, 190))],
            sampling_params=greedy(8),
            return_logprob=True,
            logprob_start_len=0,
        )
        keep = ("input_token_logprobs", "output_token_logprobs")
        print(json.dumps([[one["output_ids"], [one["meta_info"][name] for name in keep]] for one in answers]))


# The engine's own processes are spawned and import this file again.
if __name__ == "__main__":
    main(sys.argv[1])
