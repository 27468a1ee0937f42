"""The stand-ins hold the place of absent packages, in every process, and of nothing else."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from sgl_indexcache import stand_ins


def real(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


absent = pytest.mark.skipif(
    any(map(real, ("torchvision", "sglang-kernel", "sgl-kernel"))), reason="a real package is installed"
)


@pytest.mark.parametrize("name", stand_ins.PACKAGES)
def test_a_real_package_wins(tmp_path: Path, run_python, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("real = True\n")
    run_python("-c", f"import {name}; assert {name}.real", cwd=tmp_path.parent, path=tmp_path)


@absent
@pytest.mark.parametrize("name", stand_ins.PACKAGES)
def test_is_active_in_a_new_process(root: Path, tmp_path: Path, run_python, name: str) -> None:
    found = run_python("-c", f"import {name}; print({name}.__file__)", cwd=tmp_path).stdout
    assert found.startswith(str(root / "sgl_indexcache" / "stand_ins"))


@absent
@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("torchvision.io", "decode_jpeg"),
        ("torchvision.ops.boxes", "batched_nms"),
        ("torchvision.transforms", "Compose"),
        ("torchvision.transforms.functional", "pil_to_tensor"),
        ("torchvision.transforms.v2.functional", "resize"),
        ("sgl_kernel", "verify_tree_greedy_cpu"),
    ],
)
def test_a_call_names_the_package_to_install(module: str, function: str) -> None:
    package = stand_ins.PACKAGES[module.partition(".")[0]]
    stand_in = getattr(importlib.import_module(module), function)
    with pytest.raises(RuntimeError) as raised:
        stand_in(1, two=2)
    assert f"{module}.{function}" in str(raised.value)
    assert str(raised.value).endswith(f"install {package}")


@absent
def test_sgl_kernel_has_no_submodules() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("sgl_kernel.flash_attn")


@absent
def test_unknown_special_names_stay_unknown() -> None:
    functional = importlib.import_module("torchvision.transforms.functional")
    assert not hasattr(functional, "__path__")
    assert not hasattr(functional, "_private")


@absent
def test_sglang_and_transformers_import_both(tmp_path: Path, run_python) -> None:
    program = """
import os
os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
import transformers.image_utils, transformers.video_utils, transformers.image_processing_backends
from transformers import DeepseekV32ForCausalLM, GlmMoeDsaForCausalLM
from transformers.utils.import_utils import is_torchvision_greater_or_equal
assert not is_torchvision_greater_or_equal("0.1")
import sglang.srt.models.deepseek_v2
"""
    run_python("-c", program, cwd=tmp_path)


def test_the_environment_has_the_line() -> None:
    path = Path(sysconfig.get_path("purelib")) / stand_ins.PTH_NAME
    if not path.exists():
        pytest.skip("not an environment of scripts/install_cpu.py")
    assert path.read_text() == stand_ins.PTH_LINE


@pytest.mark.parametrize("package", [None, "raise ValueError('broken')\n", "not Python\n"])
def test_the_line_breaks_no_start(tmp_path: Path, package: str | None) -> None:
    """Without the package, and with a broken one."""
    (tmp_path / stand_ins.PTH_NAME).write_text(stand_ins.PTH_LINE)
    if package is not None:
        (tmp_path / "sgl_indexcache").mkdir()
        (tmp_path / "sgl_indexcache" / "__init__.py").write_text(package)
    program = f"import site; site.addsitedir({str(tmp_path)!r}); print('started')"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "started\n", "")


def test_the_line_imports_nothing_else(root: Path, tmp_path: Path) -> None:
    """Every Python of the environment runs it."""
    (tmp_path / stand_ins.PTH_NAME).write_text(stand_ins.PTH_LINE)
    program = (
        f"import site, sys; sys.path.append({str(root)!r}); before = set(sys.modules)\n"
        f"site.addsitedir({str(tmp_path)!r}); print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["sgl_indexcache", "sgl_indexcache.stand_ins"]


def test_install_is_idempotent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    stand_ins.install()
    stand_ins.install()
    assert sys.meta_path.count(stand_ins.StandInFinder) == 1
