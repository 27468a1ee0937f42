"""Raw files of results: where they stand, what they begin with, and that a page links each of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RAW = DOCS / "results" / "raw"
FILES = sorted(path for path in RAW.rglob("*") if path.is_file())
NAMES = [str(path.relative_to(RAW)) for path in FILES]
# raw/<page>/<date>-<device>-<what>
NAME = re.compile(r"[a-z-]+/\d{4}-\d\d-\d\d-(cpu|gpu|h100|h200)-[a-z0-9-]+\.jsonl?")
SCHEMA = re.compile(r"sgl_indexcache\.[a-z_.]+/\d+")


def envelope(path: Path) -> dict[str, Any]:
    """The object that says what a file is: a JSON file itself, the first line of a JSONL file."""
    text = path.read_text()
    result: dict[str, Any] = json.loads(text if path.suffix == ".json" else text.splitlines()[0])
    return result


def links() -> dict[Path, set[Path]]:
    """The pages that link each raw file."""
    result: dict[Path, set[Path]] = {}
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            result.setdefault((page.parent / target).resolve(), set()).add(page)
    return result


def test_there_are_raw_files() -> None:
    assert len(FILES) > 100


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_page_date_device_and_content(name: str) -> None:
    assert NAME.fullmatch(name), "raw/<page>/<date>-<device>-<what>.json"


@pytest.mark.parametrize("name", NAMES)
def test_begins_with_schema_machine_and_versions(name: str) -> None:
    head = envelope(RAW / name)
    assert list(head)[:3] == ["schema", "machine", "versions"]
    assert SCHEMA.fullmatch(head["schema"])
    assert isinstance(head["machine"], dict)
    assert head["machine"]
    assert isinstance(head["versions"], dict)
    assert head["versions"]


def test_each_file_is_linked_from_its_page_and_no_other() -> None:
    linked = links()
    wrong = {
        str(path.relative_to(RAW)): sorted(page.name for page in linked.get(path.resolve(), set()))
        for path in FILES
        if {page.stem for page in linked.get(path.resolve(), set())} != {path.parent.name}
        or len(linked[path.resolve()]) != 1
    }
    assert wrong == {}


def test_no_file_names_a_folder_of_a_machine() -> None:
    assert [name for name in NAMES if re.search(r'"/(root|home|work|tmp|mnt)/', (RAW / name).read_text())] == []
