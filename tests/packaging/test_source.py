"""Rules over the source: nothing unpickles, and no file names a place of the machine it was written on."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
ATTRIBUTES = {"recv_pyobj", "send_pyobj", "recv_serialized"}
# Folders of any machine: they tell nothing about this one, and deployments name them.
EVERYWHERE = {"/", "/app", "/data", "/home", "/mnt", "/opt", "/srv", "/tmp", "/usr", "/usr/src", "/var"}
ROOMS = ("sgl_indexcache", "kernels", "loadtest", "scripts", "deploy")


def findings(source: str) -> list[str]:
    """Every import of a pickler, every pyobj socket call and every torch.load in a Python source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.partition(".")[0] in PICKLERS]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found += [module] if module.partition(".")[0] in PICKLERS else []
                found += [f"torch.{alias.name}" for alias in names if (module, alias.name) == ("torch", "load")]
            case ast.Attribute(attr=name) if name in ATTRIBUTES:
                found.append(name)
            case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                found.append("torch.load")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_unpickles(root: Path, room: str) -> None:
    files = [path for path in (root / room).rglob("*.py") if "__pycache__" not in path.parts]
    found = {str(path.relative_to(root)): findings(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import os, pickle as p", "from dill import loads", "socket.recv_pyobj()",
        "torch.load('x')", "from torch import load", "def f():\n    import shelve",
    ],
)  # fmt: skip
def test_the_rule_fires(source: str) -> None:
    assert findings(source)


def text_files(root: Path) -> list[Path]:
    """What git has or would add; without git, every file that is not hidden."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [root / name for name in result.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def places(*folders: Path) -> re.Pattern[str]:
    """Matches the folders and paths below them, but not the same words inside a longer path."""
    telling = sorted({str(folder) for folder in folders} - EVERYWHERE)
    return re.compile(r"(?<![\w.$})-])(?:" + "|".join(map(re.escape, telling)) + r")(?![\w.-])")


def test_no_file_names_this_machine(root: Path) -> None:
    links = [Path(link) for link in os.environ.get("PIP_FIND_LINKS", "").split() if link.startswith("/")]
    pattern = places(root, root.parent, Path.home(), *links)
    found = [
        f"{path.relative_to(root)}:{number}: {match[0]}"
        for path in text_files(root)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (match := pattern.search(line))
    ]
    assert found == []


def test_the_pattern_fires() -> None:
    pattern = places(Path("/src"), Path("/home/someone"), Path("/"))
    assert pattern.search("see /src/project")
    assert pattern.search("'/home/someone/x'")
    assert not pattern.search("kernels/src/score and https://example.org/src/x")
    assert not pattern.search("/home/somebody/x")
