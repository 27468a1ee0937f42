"""On a GPU: `--attention-backend indexcache` gives the very bits of SGLang's own `dsa` backend.

Needs CUDA, SGLang 0.5.17 with its kernels, and the environment variable DSA_MODEL: a folder with the config.json
of a DSA model (weights are dummies). Run by `make test-gpu`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif("DSA_MODEL" not in os.environ, reason="set DSA_MODEL to a model folder"),
    pytest.mark.timeout(500),
]


def record(folder: Path, backend: str, pattern: str) -> dict[str, Any]:
    out = folder / f"{backend}-{pattern}.json"
    command = [sys.executable, str(Path(__file__).with_name("record.py")), "--model", os.environ["DSA_MODEL"]]
    # The other tests run SGLang's CPU engine; this one must not.
    environment = {name: value for name, value in os.environ.items() if name != "SGLANG_USE_CPU_ENGINE"}
    command += ["--backend", backend, "--pattern", pattern, "--out", str(out)]
    subprocess.run(command, check=True, timeout=300, env=environment)
    return json.loads(out.read_text())


@pytest.mark.parametrize("pattern", ["FFFF", "FSSF"])
def test_the_same_bits_as_dsa(pattern: str, tmp_path: Path) -> None:
    ours, theirs = record(tmp_path, "indexcache", pattern), record(tmp_path, "dsa", pattern)
    assert ours.pop("state")["pattern"] == pattern
    assert theirs.pop("state") is None
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert ours[name] == theirs[name], name
    assert theirs["warm.10000"][0]["cached"] >= 9984
