"""The model of the GPU tests, random weights of a sensible scale in the shapes that the kernels are made for; and the
engines that serve it, each in a process of its own, all side by side on one GPU while the kernels are tested."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model
from sgl_indexcache.nano.spec import KERNEL

from ..engine import run_program

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
# Full after Full, Full after Shared, and a Shared layer between them.
PATTERN = "FFSF"
FP8 = ("--kv", "fp8_e4m3", "--lengths", "100,2049,10000")
SELECTIONS = ("--selections", "6000,30000", "--lengths", "3000,10000")
ENGINES = {
    "engines": {
        "plain": ("record.py", "--backend", "dsa"),
        # With prefill graphs, which run attention and indexer between their segments.
        "ours": ("record.py", "--backend", "indexcache", "--kernels", "ours", "--prefill-graph", "--schedules", "200"),
        "plain-torch": ("record.py", "--backend", "dsa", "--topk", "torch"),
        "parity-torch": ("record.py", "--backend", "indexcache", "--kernels", "sglang", "--topk", "torch"),
    },
    "fp8_engines": {
        "plain-fp8": ("record.py", "--backend", "dsa", *FP8),
        "plain-fp8-torch": ("record.py", "--backend", "dsa", "--topk", "torch", *FP8),
        "ours-fp8": ("record.py", "--backend", "indexcache", "--kernels", "fp8", *FP8),
    },
    "two_level_engines": {
        "exact": ("record.py", "--backend", "indexcache", "--kernels", "ours", *SELECTIONS),
        "two-level": (
            *("record.py", "--backend", "indexcache", "--kernels", "ours", *SELECTIONS, "--prefill-graph"),
            *("--two-level", "4096", "--schedules", "100"),
        ),
        "guarded": (
            *("record.py", "--backend", "indexcache", "--kernels", "sglang", *SELECTIONS),
            *("--two-level", "4096", "--floor", "0.999"),
        ),
    },
    "store_engines": {
        "store-sglang-on": ("record_store.py", "--kernels", "sglang", "--store"),
        "store-sglang-off": ("record_store.py", "--kernels", "sglang"),
    },
    "store_engines_ours": {
        "store-ours-on": ("record_store.py", "--kernels", "ours", "--prefill-graph", "--store"),
        "store-ours-off": ("record_store.py", "--kernels", "ours", "--prefill-graph"),
    },
}
"""Engines by the fixture that has their answers: the script in this folder and its arguments."""

OPTIONAL = {"fp8_engines": "GPU_TEST_FP8", "store_engines_ours": "GPU_TEST_STORE_OURS"}
"""Groups that are started only if this variable is set: more engines than one GPU has room for beside the others."""

Answers = dict[str, Any]
Group = dict[str, "Future[Answers]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a GPU; on other machines it is skipped by name. Tests of engines come last."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            for group in groups_of(item):
                if group in OPTIONAL and OPTIONAL[group] not in os.environ:
                    item.add_marker(pytest.mark.skip(reason=f"more engines: set {OPTIONAL[group]}=1"))
    items.sort(key=lambda item: here in item.path.parents and bool(groups_of(item)))


def groups_of(item: pytest.Item) -> list[str]:
    """Names of the groups of engines that a test asks for."""
    parameters = getattr(item, "callspec", None)
    asked = [*getattr(item, "fixturenames", []), *(parameters.params.values() if parameters else [])]
    return [name for name in ENGINES if name in asked]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder written for this run."""
    folder = write_random_model(tmp_path_factory.mktemp("models") / "kernel", SPEC)
    # The published models' rope style, with which SGLang runs its fused indexer; the weights mean nothing anyway.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "indexer_rope_interleave": True}))
    return folder


@pytest.fixture(scope="session", autouse=True)
def all_engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Group]]:
    """Every engine that some test of this run asks for, started before the first test."""
    items = [item for item in request.session.items if not item.get_closest_marker("skip")]
    wanted = [group for group in ENGINES if any(group in groups_of(item) for item in items)]
    if not torch.cuda.is_available() or not wanted:
        yield {}
        return
    folder, model = tmp_path_factory.mktemp("records"), request.getfixturevalue("model")
    with ThreadPoolExecutor(sum(len(ENGINES[group]) for group in wanted)) as pool:
        yield {
            group: {name: pool.submit(record, folder, model, name, *call) for name, call in ENGINES[group].items()}
            for group in wanted
        }


def record(folder: Path, model: Path, name: str, script: str, *arguments: str) -> Answers:
    """Answers of one engine in a process of its own."""
    out = folder / f"{name}.json"
    program = [str(Path(__file__).with_name(script)), "--model", str(model), "--pattern", PATTERN, *arguments]
    # The other tests run SGLang's CPU engine; this one must not.
    environment = {key: value for key, value in os.environ.items() if key != "SGLANG_USE_CPU_ENGINE"}
    run_program([*program, "--out", str(out)], folder / f"{name}.log", environment, timeout=400)
    if keep := os.environ.get("GPU_TEST_RECORDS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        (Path(keep) / out.name).write_text(out.read_text())
    return dict(json.loads(out.read_text()))


@pytest.fixture(scope="session")
def engines(all_engines: dict[str, Group]) -> Group:
    return all_engines["engines"]


@pytest.fixture(scope="session")
def fp8_engines(all_engines: dict[str, Group]) -> Group:
    return all_engines["fp8_engines"]


@pytest.fixture(scope="session")
def two_level_engines(all_engines: dict[str, Group]) -> Group:
    return all_engines["two_level_engines"]


@pytest.fixture(scope="session")
def store_engines(all_engines: dict[str, Group]) -> Group:
    return all_engines["store_engines"]


@pytest.fixture(scope="session")
def store_engines_ours(all_engines: dict[str, Group]) -> Group:
    return all_engines["store_engines_ours"]
