"""Tiny random checkpoints of both families, and data for them."""

import json
import random
from pathlib import Path

import pytest

from sgl_indexcache.nano.random_model import write_random_model
from sgl_indexcache.nano.spec import Architecture, MlaDims, RandomModelSpec

WIDTHS = MlaDims(q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=16, qk_nope_head_dim=16, v_head_dim=24)


def write_tiny(folder: Path, architecture: Architecture = "glm_moe_dsa", moe: bool = False) -> Path:
    """Four layers, k = 16, 32 index heads (with few, scores tie at zero), context 256."""
    spec = RandomModelSpec(
        architecture=architecture,
        layers=4,
        moe=moe,
        index_topk=16,
        index_head_dim=32,
        hidden=64,
        mla=WIDTHS,
        max_positions=256,
    )
    return write_random_model(folder, spec)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "model")


def write_lines(path: Path, documents: int = 40, seed: int = 0) -> Path:
    """Token ids of documents of 10 to 150 tokens."""
    draw = random.Random(seed)
    lines = [{"ids": [draw.randrange(256) for _ in range(draw.randint(10, 150))]} for _ in range(documents)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines") / "data.jsonl")
