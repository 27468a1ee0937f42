"""`sgl-indexcache serve` as a user runs it: one bf16 server with a settings file, asked over HTTP."""

import itertools
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sgl_indexcache.demo.conversation import Conversation
from sgl_indexcache.live.server import Server

pytestmark = pytest.mark.engine

PATTERN = "FSSFSS"
FLAGS = ["--dtype", "bfloat16", "--mem-fraction-static", "0.3", "--max-total-tokens", "8192", "--random-seed", "0"]


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    settings = folder / "indexcache.yaml"
    settings.write_text(f"pattern: {PATTERN}\n")
    arguments = ["--model-path", str(model), "--config", str(settings), *FLAGS, "--log-level", "warning"]
    with Server(arguments, folder / "server.log") as running:
        yield running


def test_the_pattern_is_in_force(server: Server) -> None:
    state = server.indexcache_state()
    assert state["pattern"] == PATTERN
    assert state["scoring"] == "exact"


def test_a_conversation_reuses_its_prefix_and_the_work_saved_is_counted(server: Server, model: Path) -> None:
    before = server.indexcache_state()["work"]
    talk = Conversation(server.url, model, 8)
    talk.add("system", "tools " * 60)
    turns = [talk.ask(question) for question in ("one?", "two?", "three?")]
    assert turns[0].cached_tokens == 0
    for earlier, later in itertools.pairwise(turns):
        # The next prompt holds the whole prompt before it; only its last, open page is computed again.
        assert earlier.prompt_tokens - 64 < later.cached_tokens < later.prompt_tokens
    work = {name: value - before[name] for name, value in server.indexcache_state()["work"].items()}
    full, shared = PATTERN.count("F"), PATTERN.count("S")
    assert work["full_rows"] > 0
    assert work["shared_rows"] * full == work["full_rows"] * shared
    assert work["shared_keys"] * full == work["full_keys"] * shared


def test_openai_chat(server: Server) -> None:
    body = {"model": "default", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    request = urllib.request.Request(
        server.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] >= 1


def test_a_port_in_use_is_refused(server: Server, model: Path) -> None:
    command = [sys.executable, "-m", "sgl_indexcache.cli", "serve", "--model-path", str(model)]
    done = subprocess.run(
        [*command, "--port", str(server.port), *FLAGS], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"port {server.port} on 127.0.0.1 cannot be used" in errors[0]
    assert "Traceback" not in done.stderr


def test_stopping_leaves_no_process_behind(server: Server) -> None:
    """The last test of the module: it ends the server."""
    assert server._process is not None
    family = psutil.Process(server._process.pid).children(recursive=True)
    assert family
    server.stop()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not os.path.exists(f"/proc/{server._process.pid}/task")
