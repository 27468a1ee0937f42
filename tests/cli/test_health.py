"""`sgl-indexcache health` against a server that answers what the test wants."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sgl_indexcache.cli import health
from sgl_indexcache.live.server import free_port

ACTIVE = {"indexcache": {"pattern": "FS"}}


class Fake(ThreadingHTTPServer):
    """Answers /health with `status` and /server_info with `info`; wants `key` when it is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.info: Any = {"internal_states": [ACTIVE]}
        self.key: str | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_GET(self) -> None:
        opens = self.path == "/health" or self.server.key in (None, self.headers["Authorization"])
        self.send_response((self.server.status if self.path == "/health" else 200) if opens else 401)
        self.end_headers()
        if self.path == "/server_info" and opens:
            self.wfile.write(json.dumps(self.server.info).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Fake]:
    with Fake() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def problem(server: Fake, *, requested: bool = True, headers: dict[str, str] | None = None) -> str | None:
    return health.diagnose(server.url, headers or {}, 5.0, requested=requested)


def test_a_server_with_the_plugin_is_healthy(server: Fake) -> None:
    assert problem(server) is None


@pytest.mark.parametrize(
    "info",
    [
        {"internal_states": [{}]},
        {"internal_states": [ACTIVE, {}]},
        {"internal_states": [{"indexcache": {"pattern": None}}]},
        {"internal_states": [None]},
        {"internal_states": []},
        {},
        [],
    ],
    ids=["without", "one-without", "no-pattern", "null", "no-scheduler", "empty", "list"],
)
def test_requested_but_not_active(server: Fake, info: Any) -> None:
    server.info = info
    assert problem(server)
    assert problem(server, requested=False) is None


def test_a_draining_server_is_not_healthy(server: Fake) -> None:
    server.status = 503
    assert problem(server) == f"{server.url} answers 503 to /health"
    assert problem(server, requested=False)


def test_nobody_there() -> None:
    sentence = health.diagnose(f"http://127.0.0.1:{free_port()}", {}, 5.0, requested=True)
    assert sentence
    assert "Connection refused" in sentence


def test_a_key(server: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "Bearer secret"
    assert problem(server) == f"{server.url} answers 401 to /server_info"
    monkeypatch.setenv("KEY", "secret")
    assert problem(server, headers=health._headers("KEY")) is None


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sgl_indexcache.cli", "health", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_exit_codes(server: Fake) -> None:
    assert run("--url", server.url).returncode == 0
    server.info = {"internal_states": [{}]}
    done = run("--url", server.url)
    assert (done.returncode, done.stdout) == (1, "the plugin is requested but not active in scheduler 0\n")
    assert run("--url", "localhost:30000").returncode == 2
    assert run("--url", server.url, "--api-key-env", "NO_SUCH_VARIABLE").returncode == 2


def test_until_down(server: Fake) -> None:
    assert not health.wait_until_down(server.url, 0.0)
    server.status = 503  # draining is not down
    assert not health.wait_until_down(server.url, 0.0)
    threading.Timer(0.3, server.shutdown).start()
    threading.Timer(0.4, server.server_close).start()
    assert health.wait_until_down(server.url, 20.0)
