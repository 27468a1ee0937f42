"""`sgl-indexcache serve` as a user runs it: one bf16 server with a settings file, asked over HTTP."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sgl_indexcache.demo.conversation import Conversation
from sgl_indexcache.live.server import Server

from ..server import cpu_server, post, refusal

pytestmark = pytest.mark.engine

PATTERN = "FSSFSS"


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    with cpu_server(folder, model, settings=f"pattern: {PATTERN}\n", dtype="bfloat16") as running:
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
    answer = json.loads(post(server, "/v1/chat/completions", body))
    assert answer["usage"]["completion_tokens"] >= 1


def test_a_port_in_use_is_refused(server: Server, model: Path) -> None:
    sentence = refusal("--model-path", str(model), "--port", str(server.port))
    assert f"port {server.port} on 127.0.0.1 cannot be used" in sentence


def test_stopping_leaves_no_process_behind(server: Server) -> None:
    """The last test of the module: it ends the server."""
    assert server._process is not None
    family = psutil.Process(server._process.pid).children(recursive=True)
    assert family
    server.stop()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [process.cmdline() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not os.path.exists(f"/proc/{server._process.pid}/task")
