"""The trained model has one size, wherever it is named: that of the checkpoint."""

import json
import math
import re
from pathlib import Path

import pytest

from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.layout import count_parameters

ROOT = Path(__file__).parents[2]
SIZE = re.compile(r"([\d.]+)\s+(?:M|million)\s+parameters")
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "sgl_indexcache").rglob("*.py")]


@pytest.fixture(scope="module")
def parameters() -> int:
    """Counted in the file of the weights, whose header names every tensor's shape."""
    with (CHECKPOINT / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def sizes(text: str) -> list[str]:
    """What a text calls the size of a model in millions; sentences run over lines and comment marks."""
    return SIZE.findall(re.sub(r"\n[ #>]*", " ", text))


def test_the_config_gives_the_size_of_the_weights(parameters: int) -> None:
    assert count_parameters(json.loads((CHECKPOINT / "config.json").read_text())) == parameters


def test_every_text_names_this_size(parameters: int) -> None:
    named = [(path.relative_to(ROOT).as_posix(), size) for path in TEXTS for size in sizes(path.read_text())]
    assert {"docs/results/nano.md", "sgl_indexcache/nano/shape.py"} <= {path for path, _ in named}
    assert [(path, size) for path, size in named if size != f"{parameters / 1e6:.2f}"] == []
    assert f"| parameters | {parameters:,} |" in (CHECKPOINT / "README.md").read_text()


def test_a_size_is_seen_across_a_line_end() -> None:
    assert sizes("of 5.85 million\n# parameters, and 6 M parameters") == ["5.85", "6"]
