"""Switched off or left out, the plugin leaves SGLang untouched; installed but not used, it changes no answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..engine import ROOT

UNTOUCHED = """
import torch
before = torch.cuda.get_device_capability
from sglang.srt.plugins import load_plugins
from sglang.srt.plugins.hook_registry import HookRegistry
load_plugins()
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES
assert torch.cuda.get_device_capability is before
assert not HookRegistry._hooks and not HookRegistry._patched, HookRegistry._patched
assert "indexcache" not in ATTENTION_BACKENDS and "indexcache" not in ATTENTION_BACKEND_CHOICES
print("untouched")
"""


def run(*command: str, **environment: str) -> str:
    """The last line that a Python process prints, with SGLang's CPU engine switched on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=ROOT,
        env={**os.environ, "SGLANG_USE_CPU_ENGINE": "1", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "environment",
    [{"SGL_INDEXCACHE_ENABLED": "false"}, {"SGLANG_PLUGINS": "another"}],
    ids=["enabled-false", "not-in-SGLANG_PLUGINS"],
)
def test_sglang_is_untouched(environment: dict[str, str]) -> None:
    assert run("-c", UNTOUCHED, **environment) == "untouched"


def test_activate_is_idempotent_and_touches_no_cuda() -> None:
    code = """
import torch
import sgl_indexcache.plugin as plugin
from sglang.srt.plugins.hook_registry import HookRegistry
plugin.activate()
once = {target: len(hooks) for target, hooks in HookRegistry._hooks.items()}
plugin.activate()
assert once and once == {target: len(hooks) for target, hooks in HookRegistry._hooks.items()}
assert not torch.cuda.is_initialized()
print("same")
"""
    assert run("-c", code) == "same"


@pytest.mark.engine
def test_another_model_is_served_the_same_with_the_plugin_installed(llama: Path) -> None:
    program = ("-m", "tests.serving.plain_engine", str(llama))
    without = run(*program, SGLANG_PLUGINS="another")
    assert json.loads(run(*program)) == json.loads(without)
