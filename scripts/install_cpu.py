#!/usr/bin/env python3
"""Make `.venv` in the repository root: SGLang on the CPU, the development tools and this project, editable.

Needs Python 3.11 or 3.12 and nothing else. Run it as often as you like: it does nothing when all is in place
and repairs what is not. `--force` starts from an empty environment.
"""

from __future__ import annotations  # an older Python shall get as far as the sentence that refuses it

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "sgl-indexcache-install"
LOCK = ROOT / "constraints" / "cpu.txt"
PYTHONS = ((3, 11), (3, 12))
INPUTS = ("constraints/cpu.txt", "pyproject.toml", "setup.py", "scripts/install_cpu.py")
LAST_LINES = 15  # of pip's output, shown when a step fails

# Prints the lines of the lock that are not in place: another version, or a file of its record is gone.
LOOK = """
import importlib.metadata, os, sys
for line in sys.argv[1].split():
    name, version = line.split("==")
    try:
        distribution = importlib.metadata.distribution(name)
        record = distribution.read_text("RECORD") or ""
        paths = [entry.rsplit(",", 2)[0].strip('"') for entry in record.splitlines()]
        root = str(distribution.locate_file(""))
        whole = distribution.version == version and all(
            os.path.exists(os.path.join(root, path)) for path in paths if not path.endswith(".pyc")
        )
    except importlib.metadata.PackageNotFoundError:
        whole = False
    if not whole:
        print(line)
"""

# Whether our own parts are in force, and whether what is named can be imported.
CHECK = """
import importlib, importlib.metadata, os, pathlib, sys
os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
root, imports = pathlib.Path(sys.argv[1]), sys.argv[2].split()
import sgl_indexcache.kernels
import sgl_indexcache.stand_ins as stand_ins
assert pathlib.Path(stand_ins.__file__).is_relative_to(root), "sgl_indexcache is installed from elsewhere"
assert stand_ins.StandInFinder in sys.meta_path, "the stand-ins are not active"
entry_points = importlib.metadata.entry_points(group="sglang.srt.plugins", name="indexcache")
assert entry_points, "the plugin's entry point is missing"
assert (pathlib.Path(sys.prefix) / "bin" / "sgl-indexcache").exists(), "the command is missing"
for name in imports:
    importlib.import_module(name)
"""
IMPORTS = "torch triton transformers sglang sglang.srt.server_args xgrammar pytest hypothesis"


class InstallError(Exception):
    """Ends the script with one sentence, and with what pip said."""


class Steps:
    """One line a step: its name when it starts, its seconds when it ends."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.number += 1
        start = time.monotonic()
        print(f"[{self.number}/{self.total}] {name:<44}", end="", flush=True)
        try:
            yield
        except BaseException:
            print(f"failed after {time.monotonic() - start:.0f} s", flush=True)
            raise
        print(f"{time.monotonic() - start:6.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="start from an empty environment")
    arguments = parser.parse_args()
    start = time.monotonic()
    try:
        refuse_python(sys.version_info[:2])
        with one_at_a_time():
            install(force=arguments.force)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
    print(f"environment ready in {time.monotonic() - start:.1f} s: {VENV.relative_to(ROOT)}")


def install(*, force: bool) -> None:
    """Bring `.venv` to the state that the lock describes."""
    lines = locked()
    fresh = force or not usable()
    damaged = [] if fresh else look(lines)
    if not fresh and not damaged and stamped() and check() is None:
        return
    STAMP.unlink(missing_ok=True)
    populate(lines, damaged, fresh=fresh)
    STAMP.write_text(fingerprint())


def populate(lines: list[str], damaged: list[str], *, fresh: bool) -> None:
    """Install everything that is missing. Nothing is resolved: the lock names every package."""
    torch = next(line for line in lines if line.startswith("torch=="))
    sglang = [line for line in lines if line.startswith(("sglang==", "xgrammar=="))]
    rest = [line for line in lines if line != torch and line not in sglang]
    if fresh:
        damaged = lines
    steps = Steps(7 if fresh else 6)
    if fresh:
        with steps.step("an empty environment"):
            make_venv()
    # --no-deps everywhere: a dependency's wish must never bring another torch. --force-reinstall because pip
    # trusts its records, and would leave a package alone whose files are gone.
    with steps.step(torch):
        hint = f"if it finds no {torch}: PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS can name PyTorch's CPU wheels"
        pip_install([line for line in damaged if line == torch], hint=hint)
    with steps.step(f"{len(rest)} packages of the lock"):
        pip_install([line for line in damaged if line in rest])
    with steps.step(" and ".join(sglang)):
        pip_install([line for line in damaged if line in sglang])
    with steps.step("this project, editable"):
        pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    with steps.step("stand-ins for torchvision and sgl_kernel"):
        stand_ins = load_stand_ins()
        (purelib() / stand_ins.PTH_NAME).write_text(stand_ins.PTH_LINE)
    with steps.step("a look at whether all of it works"):
        said = check(IMPORTS)
        if said is not None:
            raise InstallError(f"the environment was installed but does not work; try --force\n{said}")


def stamped() -> bool:
    return STAMP.is_file() and STAMP.read_text() == fingerprint()


def look(lines: list[str]) -> list[str]:
    """The lines of the lock that are not, or not wholly, installed. Takes well under a second."""
    result = run_python(LOOK, " ".join(lines))
    return result.stdout.split() if result.returncode == 0 else lines


def check(imports: str = "") -> str | None:
    """Run CHECK in the environment; None, or the last lines of what went wrong."""
    result = run_python(CHECK, str(ROOT), imports)
    return None if result.returncode == 0 else last_lines(result.stdout + result.stderr)


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the environment, away from the repository root, which would hide what is missing."""
    return subprocess.run(
        [PYTHON, "-c", program, *arguments],
        cwd=VENV, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def locked() -> list[str]:
    """The lock's `name==version` lines."""
    lines = [line.strip() for line in LOCK.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def fingerprint() -> str:
    """Changes whenever a run of this script could change the environment."""
    digest = hashlib.sha256(f"{ROOT} {load_stand_ins().PTH_LINE}".encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def load_stand_ins() -> ModuleType:
    """The stand-ins' own module, from its file: the project need not be installed yet."""
    spec = importlib.util.spec_from_file_location("stand_ins", ROOT / "sgl_indexcache/stand_ins/__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_venv() -> None:
    """Make an empty environment, over what may be left of an old one."""
    # From the base interpreter, since this script may run under the environment that it replaces.
    base = getattr(sys, "_base_executable", sys.executable)
    result = subprocess.run(
        [base, "-m", "venv", "--clear", VENV],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        said = last_lines(result.stdout + result.stderr)
        raise InstallError(f"{base} cannot make a virtual environment (Debian: python3-venv)\n{said}")


def usable() -> bool:
    """Tell whether `.venv` holds a supported Python that starts, has pip, and was made at this place."""
    try:
        # The scripts of a moved environment still name the place where it was made.
        here = str(VENV) in (VENV / "bin" / "activate").read_text()
        result = run_python("import pip, sys; print(*sys.version_info[:2])")
    except OSError:
        return False
    if not here or result.returncode != 0:
        return False
    major, minor = map(int, result.stdout.split())
    return (major, minor) in PYTHONS


def purelib() -> Path:
    return Path(run_python("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())


def pip_install(lines: list[str], *, hint: str = "") -> None:
    if lines:
        pip("install", "--no-deps", "--force-reinstall", *lines, hint=hint)


def pip(*arguments: str, hint: str = "") -> None:
    """Run pip quietly; its output is shown only when it fails."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    result = subprocess.run(
        [*command, "--progress-bar", "off"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        sentence = f"pip failed (exit code {result.returncode})" + (f"; {hint}" if hint else "")
        raise InstallError(f"{sentence}\n{last_lines(result.stdout)}")


def last_lines(output: str) -> str:
    noise = re.compile(r"WARNING: Location .* is ignored|\[notice\]")
    lines = [line for line in output.splitlines() if line.strip() and not noise.search(line)]
    return "\n".join(f"    {line}" for line in lines[-LAST_LINES:])


def refuse_python(version: tuple[int, int]) -> None:
    if version not in PYTHONS:
        found = ".".join(map(str, version))
        raise InstallError(f"Python 3.11 or 3.12 is needed, this is {found} ({sys.executable})")


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock: two makes at once would break each other's installation."""
    path = ROOT / ".cache" / "install.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another installation to end", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # packages of elsewhere are not packages of the environment
    main()
