"""Pages outside the site have live links too, the site fetches nothing, and every page is in its index."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# `make check-docs` reads docs/ as the site; these are read where they lie.
OUTSIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "sgl_indexcache/nano/checkpoint/README.md")
IMAGES = re.compile(r"!\[[^\]]*\]\([^)]+\)")


def targets(page: Path) -> list[str]:
    """What a page links, images included; anchors and addresses of the web left out."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    return [target for target in found if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", OUTSIDE)
def test_links_of_pages_outside_the_site(name: str) -> None:
    page = ROOT / name
    assert [target for target in targets(page) if not (page.parent / target).exists()] == []
    with_anchor = re.findall(r"\]\(([^)#\s]+\.md)#([^)\s]+)\)", page.read_text())
    assert [pair for pair in with_anchor if pair[1] not in anchors(page.parent / pair[0])] == []


def test_the_readme_can_be_read_in_an_editor() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if len(line) > 300] == []
    assert [line for line in lines[:6] if line.startswith("make ")] == [
        "make demo    # sets everything up, serves a small trained model on the CPU and talks to it",
        "make test    # sets up the same way and runs the tests",
    ]
    assert len(IMAGES.findall("\n".join(lines))) == 1


def test_states_are_short() -> None:
    """docs/status.md: part, state in at most three words, a link."""
    lines = [line for line in (DOCS / "status.md").read_text().splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(rows) > 10
    assert [row for row in rows if len(re.findall(r"[\w']+", row[1])) > 3 or "](" not in row[2]] == []


def test_the_site_fetches_nothing_and_its_index_is_whole() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript", "hooks"} & set(config)
    assert set(config["validation"].values()) == {"warn"}
    pages = set(leaves(config["nav"]))
    assert pages == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_pages_that_the_source_names_are_there() -> None:
    sources = [
        path for room in ("sgl_indexcache", "kernels", "loadtest", "deploy") for path in (ROOT / room).rglob("*")
    ]
    named = {
        page
        for path in sources
        if path.suffix in (".py", ".yaml", ".md")
        for page in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text())
    }
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def leaves(nav: Any) -> list[str]:
    """The pages of a `nav` of mkdocs.yml."""
    match nav:
        case str():
            return [nav]
        case dict():
            return [page for part in nav.values() for page in leaves(part)]
        case _:
            return [page for part in nav for page in leaves(part)]
