"""What a user installs: all of our packages under one name, and nothing beside it."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import sgl_indexcache

ROOMS = {
    "sgl_indexcache": "sgl_indexcache",
    "kernels/src": "sgl_indexcache/kernels",
    "kernels/benchmarks": "sgl_indexcache/kernels/benchmarks",
    "loadtest/src": "sgl_indexcache/loadtest",
}
LINKS = {
    "sgl_indexcache/kernels": "kernels/src",
    "sgl_indexcache/loadtest": "loadtest/src",
    "kernels/src/benchmarks": "kernels/benchmarks",
}
LEFT_OUT = tuple(f"sgl_indexcache/nano/{part}/" for part in ("training", "studies", "cards"))
DIST_INFO = f"sgl_indexcache-{sgl_indexcache.__version__}.dist-info"


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names)), "every file once"
    return set(names)


def test_the_links_are_for_tools_alone(source: Path, names: set[str], build: Callable[[Path], Path], tmp_path) -> None:
    """mypy and editors see the mapped rooms through links; a tree that lost them gives the same wheel."""
    assert [(source / link).resolve().relative_to(source).as_posix() for link in LINKS] == list(LINKS.values())
    bare = tmp_path / "bare"
    shutil.copytree(source, bare, symlinks=True, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    for link in LINKS:
        (bare / link).unlink()
    with zipfile.ZipFile(build(bare)) as archive:
        assert set(archive.namelist()) == names


def test_has_one_top_level_package(names: set[str]) -> None:
    assert {name.partition("/")[0] for name in names} == {"sgl_indexcache", DIST_INFO}


@pytest.mark.parametrize("room", ROOMS)
def test_holds_every_module(source: Path, names: set[str], room: str) -> None:
    folder = source / room
    expected = {f"{ROOMS[room]}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.py")}
    expected = {name for name in expected if not name.startswith(LEFT_OUT)}
    assert f"{ROOMS[room]}/__init__.py" in expected
    assert expected <= names


def test_holds_no_training_study_or_card(source: Path, names: set[str]) -> None:
    assert all((source / part / "__init__.py").exists() for part in LEFT_OUT)
    assert [name for name in names if name.startswith(LEFT_OUT)] == []


def test_what_is_left_out_says_so(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    results = {
        tool: subprocess.run(
            [sys.executable, "-m", "sgl_indexcache.nano", tool, "--help"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )
        for tool in ("train", "page-rules", "card", "random-model")
    }  # fmt: skip
    assert results.pop("random-model").returncode == 0
    for tool, result in results.items():
        (line,) = result.stderr.splitlines()
        assert result.returncode == 2
        assert line.startswith(f"error: `{tool}` is not in the wheel")


def test_the_editable_install_has_them(root: Path, tmp_path: Path, run_python) -> None:
    program = "import sgl_indexcache.nano.cards as cards; print(cards.__file__)"
    origin = run_python("-c", program, cwd=tmp_path).stdout.strip()
    assert origin == str(root / "sgl_indexcache" / "nano" / "cards" / "__init__.py")


@pytest.mark.parametrize("room", ROOMS)
def test_no_folder_lacks_its_init(source: Path, room: str) -> None:
    """setuptools would leave such a folder out without a word."""
    folders = {path.parent for path in (source / room).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_holds_the_data(source: Path, names: set[str]) -> None:
    package = source / "sgl_indexcache"
    data = {path for path in package.rglob("*") if path.suffix in {".yaml", ".json"}}
    # The trained checkpoint belongs to the repository, not to the wheel: 12 MB for a demo.
    data -= set((package / "nano" / "checkpoint").iterdir())
    assert {path.relative_to(source).as_posix() for path in data} <= names
    assert "sgl_indexcache/pattern/presets.yaml" in names
    assert "sgl_indexcache/py.typed" in names
    assert f"{DIST_INFO}/licenses/LICENSE" in names


def test_entry_points(wheel: Path) -> None:
    parser = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        parser.read_string(archive.read(f"{DIST_INFO}/entry_points.txt").decode())
    assert {section: dict(parser[section]) for section in parser.sections()} == {
        "console_scripts": {"sgl-indexcache": "sgl_indexcache.cli:main"},
        "sglang.srt.plugins": {"indexcache": "sgl_indexcache.plugin:activate"},
    }


def test_works_where_it_is_installed(installed: Path, tmp_path: Path, run_python) -> None:
    program = (
        "import sgl_indexcache, sgl_indexcache.kernels, sgl_indexcache.loadtest, sgl_indexcache.plugin\n"
        "from importlib.resources import files\n"
        "assert files('sgl_indexcache.pattern').joinpath('presets.yaml').read_text()\n"
        "for module in (sgl_indexcache, sgl_indexcache.kernels, sgl_indexcache.loadtest):\n"
        "    print(module.__file__)\n"
    )
    lines = run_python("-c", program, cwd=tmp_path, path=installed).stdout.split()
    assert lines == [
        str(installed / "sgl_indexcache" / place / "__init__.py") for place in (".", "kernels", "loadtest")
    ]
