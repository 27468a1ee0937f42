"""The pictures in the repository are those that their script draws."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def test_the_script_draws_the_pictures_in_the_repository(tmp_path: Path) -> None:
    command = [sys.executable, "-B", str(PICTURES / "draw.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in PICTURES.glob("*.svg")}
    assert drawn == kept, "run `make docs`"


def test_each_picture_is_whole_and_has_a_title() -> None:
    for path in PICTURES.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert title is not None, path.name
        assert title.text, path.name


def test_each_picture_is_shown_on_a_page() -> None:
    pages = "".join(path.read_text() for path in PICTURES.parent.rglob("*.md"))
    assert [path.name for path in PICTURES.glob("*.svg") if f"pictures/{path.name})" not in pages] == []
