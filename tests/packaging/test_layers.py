"""The direction of imports: what docs/architecture.md draws is what the source does, and the rule fires."""

import re
from pathlib import Path

import pytest

from .layers import ONLY, PACKAGE, SERVING, TOOLS, circles, modules_of, room_of, violations

TREE = {
    "sgl_indexcache/__init__.py": "",
    "sgl_indexcache/errors.py": "",
    "sgl_indexcache/store/__init__.py": "from sgl_indexcache.store.pages import Pages",
    "sgl_indexcache/store/pages.py": "from sgl_indexcache.errors import UserError",
    "sgl_indexcache/indexer/exact.py": "from sgl_indexcache import errors, store\nfrom ..kernels.score import score",
    "sgl_indexcache/sglang_port/base.py": "import sglang.srt",
    "sgl_indexcache/search/run.py": "from sgl_indexcache.indexer import exact\nimport torch",
    "kernels/src/score/__init__.py": "score = 1",
    "kernels/benchmarks/indexer.py": "from sgl_indexcache.kernels import score",
    "loadtest/src/run.py": "from sgl_indexcache.errors import UserError",
}
"""A house in order: file to text."""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in (TREE | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_run_downwards(root: Path) -> None:
    assert violations(root) == []


def test_every_room_of_the_table_is_there(root: Path) -> None:
    rooms = {room_of(module) for module in modules_of(root)}
    listed = {room for floors in (SERVING, TOOLS) for floor in floors for room in floor} | set(ONLY)
    assert listed - rooms == set()


def test_the_architecture_page_draws_the_same_floors(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text()
    block = re.search(r"^## Directions\n.*?^```\n(.*?)^```\n", page, re.DOTALL | re.MULTILINE)
    assert block is not None, "docs/architecture.md has no block of floors under ## Directions"
    # A line that begins with blanks goes on with the chain before it.
    chains = re.sub(r"\n\s+", " ", block[1]).strip().splitlines()
    drawn = [tuple(tuple(re.split(r",\s*", floor.strip())) for floor in chain.split("<")) for chain in chains]
    assert drawn == [SERVING, TOOLS]


def test_a_house_in_order(tmp_path: Path) -> None:
    assert violations(write(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        (
            "sgl_indexcache/store/pages.py",
            "from sgl_indexcache.indexer import exact",
            "sgl_indexcache.store.pages:1 imports sgl_indexcache.indexer.exact: store does not stand above indexer",
        ),
        ("sgl_indexcache/store/pages.py", "def f():\n    import sgl_indexcache.indexer", "store does not stand above"),
        (
            "sgl_indexcache/store/pages.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..indexer.exact import X",
            "store.pages:3 imports sgl_indexcache.indexer.exact: store does not stand above indexer",
        ),
        ("kernels/src/score/api.py", "from sgl_indexcache.attention import gather", "kernels does not stand above"),
        ("kernels/benchmarks/indexer.py", "from ...indexer import exact", "kernels.benchmarks does not stand above"),
        (
            "loadtest/src/run.py",
            "from sgl_indexcache.settings import Settings",
            "loadtest does not stand above settings",
        ),
        ("sgl_indexcache/telemetry/x.py", "import sgl_indexcache.search.run", "telemetry does not stand above search"),
        ("sgl_indexcache/attic/x.py", "", "room attic has no floor"),
    ],
)
def test_an_arrow_that_runs_upwards(file: str, text: str, sentence: str, tmp_path: Path) -> None:
    assert any(sentence in one for one in violations(write(tmp_path, {file: text})))


@pytest.mark.parametrize("text", ["import sglang", "def f():\n    from sgl_kernel import topk"])
@pytest.mark.parametrize(
    "file", ["sgl_indexcache/indexer/exact.py", "sgl_indexcache/attention/choice.py", "loadtest/src/run.py"]
)
def test_sglang_where_it_does_not_belong(file: str, text: str, tmp_path: Path) -> None:
    (sentence,) = violations(write(tmp_path, {file: text}))
    assert "imports sgl" in sentence
    assert "which belongs behind sglang_port" in sentence


def test_a_circle_of_files(tmp_path: Path) -> None:
    files = {
        "sgl_indexcache/store/pages.py": "from sgl_indexcache.store import tables",
        "sgl_indexcache/store/tables.py": "def f():\n    from .tails import Tail",
        "sgl_indexcache/store/tails.py": "import sgl_indexcache.store.pages",
    }
    store = f"{PACKAGE}.store"
    assert f"files in a circle: {store}.pages -> {store}.tables -> {store}.tails -> {store}.pages" in violations(
        write(tmp_path, files)
    )


def test_a_circle_of_rooms_on_one_floor(tmp_path: Path) -> None:
    files = {
        "sgl_indexcache/search/x.py": "import sgl_indexcache.quality.x",
        "sgl_indexcache/quality/x.py": "import sgl_indexcache.search.y",
        "sgl_indexcache/search/y.py": "",
    }
    assert violations(write(tmp_path, files)) == ["rooms in a circle: quality -> search -> quality"]


def test_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b", "a"}, "e": {"a"}}) == [["a", "b", "c", "d", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) == []
