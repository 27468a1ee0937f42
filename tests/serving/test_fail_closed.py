"""A plugin that is requested but not in force in a scheduler stops the server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = ["--dtype", "float32", "--mem-fraction-static", "0.3", "--max-total-tokens", "4096", "--log-level", "error"]
BREAKER = """
import multiprocessing

def activate():
    # Only the scheduler is broken: the main process finds nothing wrong.
    if multiprocessing.current_process().name == "MainProcess":
        return
    from sgl_indexcache.sglang_port.base import Hook
    from sgl_indexcache.sglang_port.seams.cpu import rope
    register = Hook.register
    Hook.register = lambda hook: None if hook in rope.SEAM.hooks else register(hook)
"""


@pytest.mark.engine
def test_a_seam_that_is_missing_in_the_scheduler_only(model: Path, tmp_path: Path) -> None:
    (tmp_path / "breaker.py").write_text(BREAKER)
    info = tmp_path / "breaker-0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: breaker\nVersion: 0.0\n")
    (info / "entry_points.txt").write_text("[sglang.srt.plugins]\nbreaker = breaker:activate\n")
    done = subprocess.run(
        [sys.executable, "-m", "sgl_indexcache.cli", "serve", "--model-path", str(model), *FLAGS],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr[-3000:]
    assert "seam cpu-rope is not in force" in errors[0]
    assert "SGLang 0.5.17 found, 0.5.17 supported" in errors[0]
    assert "Traceback" not in done.stderr
