"""The same prompts, one at a time, by our client and by SGLang's own tool: medians within 5%.

Against the scripted server, whose delays are known; LOADTEST_URL and LOADTEST_MODEL (address and folder) put a
real server in its place.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

# Slow to import, as an engine is.
pytestmark = pytest.mark.engine

REQUESTS, TOKENS = 20, 24
# Every token is a letter: the other tool takes a token without text for none.
SAMPLING = {"temperature": 0, "ignore_eos": True, "max_new_tokens": TOKENS, "logit_bias": {"97": 1000}}


def test_medians_agree(serve: Callable[..., Any], run: Callable[..., Any], mocks: Any, tmp_path: Path) -> None:
    url, model = os.environ.get("LOADTEST_URL"), os.environ.get("LOADTEST_MODEL")
    if url is None or model is None:
        url = serve(lambda number: mocks.Plan(ttft=0.2, gaps=(0.03,))).url
        spec = RandomModelSpec(layers=1, hidden=32, heads=2, index_n_heads=4, index_head_dim=32)
        model = str(write_random_model(tmp_path / "model", spec))
    prompts = [f"{number:04d} " + "lorem ipsum dolor " * 20 for number in range(REQUESTS)]
    lines = [
        {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "a" * TOKENS}]}
        for text in prompts
    ]
    trace = tmp_path / "shared.jsonl"
    trace.write_text("\n".join(map(json.dumps, lines)) + "\n")
    extra = {"sampling_params": SAMPLING}

    def ours() -> dict[str, float]:
        document, _ = run(
            url,
            trace=trace,
            prompt="text",
            extra=extra,
            salt_mode="none",
            flush_cache=True,
            concurrency=1,
            timeout=60.0,
        )
        assert document["status"] == "ok"
        latency = document["stages"][0]["summary"]["groups"]["all"]["latency"]
        return {name: latency[name]["p50"] for name in ("ttft", "tpot")}

    # Ours on both sides of theirs: what else the machine does falls on both.
    first, other, second = ours(), theirs(url, model, trace, tmp_path), ours()
    for name in first:
        mine = (first[name] + second[name]) / 2
        print(f"{name}: ours {first[name]:.5f} and {second[name]:.5f}, bench_serving {other[name]:.5f}")
        # Where our own two runs differ by more, 5% cannot be seen.
        spread = abs(first[name] / second[name] - 1)
        assert abs(mine / other[name] - 1) < max(0.05, spread), (name, first, other, second)


def theirs(url: str, model: str, trace: Path, folder: Path) -> dict[str, float]:
    """Medians of bench_serving, in seconds."""
    # It imports Hugging Face's datasets for a data set that is not used here.
    (folder / "stub").mkdir()
    (folder / "stub" / "datasets.py").write_text("load_dataset = None\n")
    out = folder / "theirs.jsonl"
    command = [
        sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang", "--base-url", url,
        "--dataset-name", "custom",
        "--dataset-path", str(trace), "--num-prompts", str(REQUESTS), "--model", model,
        "--tokenizer", model, "--sharegpt-output-len",
        str(TOKENS), "--max-concurrency", "1", "--output-file", str(out), "--flush-cache", "--extra-request-body",
        json.dumps({"sampling_params": SAMPLING}),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder / "stub"), "no_proxy": "*"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-1000:]
    found = json.loads(out.read_text().splitlines()[-1])
    return {name: found[f"median_{name}_ms"] / 1e3 for name in ("ttft", "tpot")}
