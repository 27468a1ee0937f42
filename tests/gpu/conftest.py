"""The model of the GPU tests: random weights of a sensible scale, in the shapes that the kernels are made for."""

import json
from pathlib import Path

import pytest
import torch

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.nano.spec import KERNEL

SPEC = RandomModelSpec(
    architecture="glm_moe_dsa",
    layers=4,
    index_topk=2048,
    index_n_heads=32,
    heads=32,
    hidden=512,
    mla=KERNEL,
    max_positions=131072,
    dtype="bfloat16",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a GPU; on other machines it is skipped by name."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder written for this run."""
    folder = write_random_model(tmp_path_factory.mktemp("models") / "kernel", SPEC)
    # The published models' rope style, with which SGLang runs its fused indexer; the weights mean nothing anyway.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "indexer_rope_interleave": True}))
    return folder
