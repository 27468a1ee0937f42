"""The parts of the installer that decide what to do and what to say."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def installer(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_cpu", root / "scripts" / "install_cpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not module.PYTHON.exists():
        pytest.skip("no .venv here")
    return module


@pytest.mark.parametrize("version", [(2, 7), (3, 10), (3, 13)])
def test_refuses_other_pythons_in_one_sentence(installer: ModuleType, version: tuple[int, int]) -> None:
    with pytest.raises(installer.InstallError, match=r"Python 3\.11 or 3\.12 is needed") as raised:
        installer.refuse_python(version)
    assert "\n" not in str(raised.value)


def test_a_failing_step_shows_the_last_lines_of_pip(installer: ModuleType) -> None:
    with pytest.raises(installer.InstallError) as raised:
        installer.pip("install", "--no-deps", "--no-index", "./no-such-folder", hint="look there")
    sentence, _, said = str(raised.value).partition("\n")
    assert re.fullmatch(r"pip failed \(exit code \d+\); look there", sentence)
    assert "no-such-folder" in said


def test_noise_is_left_out(installer: ModuleType) -> None:
    noise = "WARNING: Location 'somewhere' is ignored: it is either a non-existing path\n"
    assert installer.last_lines(f"{noise}\n{noise}ERROR: no\n") == "    ERROR: no"
    many = "\n".join(f"line {number}" for number in range(100))
    assert installer.last_lines(many).splitlines()[-1] == "    line 99"
    assert len(installer.last_lines(many).splitlines()) == installer.LAST_LINES


def test_looks_for_versions_and_files(installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sample.py").touch()
    info = tmp_path / "sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (info / "RECORD").write_text("sample.py,,\nsample-1.0.dist-info/METADATA,,\n__pycache__/sample.pyc,,\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert installer.look(["sample==1.0"]) == []
    assert installer.look(["sample==1.1", "absent==1"]) == ["sample==1.1", "absent==1"]
    (tmp_path / "sample.py").unlink()
    assert installer.look(["sample==1.0"]) == ["sample==1.0"]


def test_the_fingerprint_follows_its_inputs(
    installer: ModuleType, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = {installer.fingerprint()}
    for name in (*installer.INPUTS, "sgl_indexcache/stand_ins/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((root / name).read_bytes())
    monkeypatch.setattr(installer, "ROOT", tmp_path)
    fingerprints.add(installer.fingerprint())  # another place
    for name in installer.INPUTS:
        with (tmp_path / name).open("a") as file:
            file.write("# more\n")
        fingerprints.add(installer.fingerprint())
    assert len(fingerprints) == 2 + len(installer.INPUTS)


def test_needs_only_the_standard_library(root: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-I", "-S", root / "scripts" / "install_cpu.py", "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--force" in result.stdout
