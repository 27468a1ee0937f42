"""A plugin that is requested but not in force in a scheduler stops the server."""

from pathlib import Path

import pytest

from ..server import refusal

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
    sentence = refusal("--model-path", str(model), *FLAGS, timeout=240, code=None, PYTHONPATH=str(tmp_path))
    assert "seam cpu-rope is not in force" in sentence
    assert "SGLang 0.5.17 found, 0.5.17 supported" in sentence
