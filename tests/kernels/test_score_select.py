"""The indexer kernels: their arithmetic in Triton's interpreter, and what the compiler makes of them for Hopper."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")


def test_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("score_select.py")


COMPILE = """
import re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sgl_indexcache.kernels.score.kernel import score_kernel
from sgl_indexcache.kernels.select.kernel import maxima_kernel, select_kernel

POINTERS = dict(
    q="*fp8e4nv", w="*fp32", index_k="*u8", page_table="*i32", names="*i32", request="*i32", lengths="*i32",
    logits="*fp32", maxima="*fp32", out="*i32", scratch="*i32",
)
ALIGNED = {"q", "w", "index_k", "logits", "maxima", "scratch", "logits_stride"}
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

def build(name, kernel, warps, limit=None, **fixed):
    arguments = kernel.arg_names
    signature = {name: "constexpr" if name in fixed else POINTERS.get(name, "i32") for name in arguments}
    attributes = {(arguments.index(name),): [["tt.divisibility", 16]] for name in arguments if name in ALIGNED}
    constants = {(arguments.index(name),): value for name, value in fixed.items()}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "maxnreg": limit})
    folder = Path(sys.argv[1])
    (folder / f"{name}.ptx").write_text(built.asm["ptx"])
    cubin = folder / f"{name}.cubin"
    cubin.write_bytes(built.asm["cubin"])
    usage = subprocess.run([TOOL, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\\d+) STACK:(\\d+)", usage).groups()
    (folder / f"{name}.use").write_text(f"{built.metadata.shared} {registers} {stack}")

for name, heads, queries, forced in (("32", 32, 4, 0), ("64", 64, 2, 1), ("16", 16, 8, 0), ("row", 32, 1, 0)):
    build(f"score-{name}", score_kernel, 4, H=heads, HP=heads, D=128, BQ=queries, BLOCK=16, FORCED=bool(forced),
          MAXIMA=True, STAGES=3, REGISTERS=False)
for k in (256, 2048):
    build(f"select-{k}", select_kernel, 16, N1=16384, N2=16 * k, KP=k, TILE1=4096, TILE2=4096, BLOCK=16, LISTS=True,
          WARPS=16)
build("select-whole", select_kernel, 8, limit=128, N1=1, N2=16384, KP=2048, TILE1=1, TILE2=4096, BLOCK=16, LISTS=False,
      WARPS=8)
build("maxima", maxima_kernel, 4, N=128, BLOCK=16)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PTX and resources of every kernel, compiled for sm_90 in a process of its own."""
    folder = tmp_path_factory.mktemp("compiled")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, _script(folder), str(folder)], env=environment, check=True, timeout=280)
    return folder


def _script(folder: Path) -> str:
    """Triton reads a kernel's source from its file, so the script that compiles is a file too."""
    script = folder / "build.py"
    script.write_text(COMPILE)
    return str(script)


def resources(folder: Path, name: str) -> tuple[int, int, int]:
    """Shared bytes, registers a thread, bytes of stack a thread."""
    shared, registers, stack = map(int, (folder / f"{name}.use").read_text().split())
    return shared, registers, stack


@pytest.mark.parametrize("name", ["score-32", "score-64", "score-16", "score-row"])
def test_scoring_is_wgmma_without_spills(folder: Path, name: str) -> None:
    ptx = (folder / f"{name}.ptx").read_text()
    assert re.search(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k32\.f32\.e4m3\.e4m3", ptx)
    assert "cp.async" in ptx
    shared, registers, stack = resources(folder, name)
    assert stack == 0
    # Three programs of 128 threads to a multiprocessor at least: 65,536 registers, 227 KiB.
    assert registers <= 168
    assert 3 * shared < 227 * 1024


@pytest.mark.parametrize("name", ["select-256", "select-2048", "select-whole"])
def test_selection_counts_without_atomics(folder: Path, name: str) -> None:
    ptx = (folder / f"{name}.ptx").read_text()
    assert not re.search(r"\b(atom|red)\.(global|shared)", ptx)
    shared, _, stack = resources(folder, name)
    assert shared <= 64 * 1024
    # Scores are 64 registers a thread; some addresses go to the stack (measured: faster than fewer programs at a time).
    assert stack <= 128


def test_maxima_compile(folder: Path) -> None:
    assert resources(folder, "maxima")[2] == 0
