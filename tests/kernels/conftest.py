"""How kernels are run without a GPU."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def interpret() -> Callable[[str], None]:
    """Runs the cases of a file in interpreter/ in a process of its own.

    Triton decides at its import whether kernels are interpreted, and other tests want them compiled.
    """

    def run(file: str) -> None:
        cases = Path(__file__).parent / "interpreter" / file
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(cases)]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert re.search(r"\b\d+ passed", done.stdout)

    return run
