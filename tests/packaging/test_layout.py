"""`kernels` and `loadtest` are folders, not packages: SGLang must find Hugging Face's `kernels`."""

from pathlib import Path

import pytest

PROGRAM = """
import os, site, sys
site.addsitedir(sys.argv[1])
assert sys.path[-1] == sys.argv[1]
import kernels
print(kernels.__file__)
import sgl_indexcache.kernels.benchmarks, sgl_indexcache.loadtest
print(os.path.realpath(sgl_indexcache.kernels.__file__))
print(os.path.realpath(sgl_indexcache.kernels.benchmarks.__file__))
print(os.path.realpath(sgl_indexcache.loadtest.__file__))
"""


@pytest.mark.parametrize("folder", ["kernels", "loadtest"])
def test_is_no_package(root: Path, folder: str) -> None:
    assert not (root / folder / "__init__.py").exists()


@pytest.mark.parametrize("how", ["-c", "script", "-m"])
def test_a_distribution_named_kernels_wins_in_the_repository_root(
    root: Path, tmp_path: Path, run_python, how: str
) -> None:
    """Even from the end of sys.path, behind the repository root at its front, and beside our own kernels."""
    site = tmp_path / "site"
    (site / "kernels").mkdir(parents=True)
    (site / "kernels" / "__init__.py").touch()
    (tmp_path / "probe.py").write_text(PROGRAM)
    arguments = {"-c": ["-c", PROGRAM], "script": [str(tmp_path / "probe.py")], "-m": ["-m", "probe"]}[how]
    path = {"-c": None, "script": root, "-m": tmp_path}[how]
    lines = run_python(*arguments, str(site), cwd=root, path=path).stdout.split()
    assert lines == [
        str(site / "kernels" / "__init__.py"),
        str(root / "kernels" / "src" / "__init__.py"),
        str(root / "kernels" / "benchmarks" / "__init__.py"),
        str(root / "loadtest" / "src" / "__init__.py"),
    ]


@pytest.mark.parametrize("name", ["kernels", "loadtest", "tests", "deploy"])
def test_the_editable_install_exposes_one_name(root: Path, tmp_path: Path, run_python, name: str) -> None:
    program = f"import importlib.util; print(getattr(importlib.util.find_spec({name!r}), 'origin', None))"
    origin = run_python("-c", program, cwd=tmp_path).stdout.strip()
    assert not origin.startswith(str(root / name))
