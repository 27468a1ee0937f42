"""The site's own check: it refuses dead links, and what it builds fetches nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Build a site of one page with the project's settings."""
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text(text)
    (folder / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nsite_dir: site\nnav: [README.md]\n"
    )
    # As `make check-docs` has it.
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("link", ["none.md", "#none", "../LICENSE"])
def test_a_dead_link_fails(tmp_path: Path, link: str) -> None:
    result = build(tmp_path, f"# Page\n\n[link]({link})\n")
    assert result.returncode != 0
    assert link in result.stderr


def test_a_page_fetches_nothing(tmp_path: Path) -> None:
    result = build(tmp_path, "# Page\n\nWords.\n")
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', page) == []
    styles = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?https?:", styles) == []
