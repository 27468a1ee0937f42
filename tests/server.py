"""Servers for tests: `sgl-indexcache serve` on the CPU with a small model, a request to it, and a start that fails."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from sgl_indexcache.live.server import Server

FLAGS = ("--mem-fraction-static", "0.3", "--random-seed", "0", "--log-level", "warning")
"""What every server is started with."""
# On a busy machine threads that wait for one another cost more than the second core of so small a model gives.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def cpu_server(
    folder: Path, model: Path, *flags: str, settings: str = "", dtype: str = "float32", tokens: int = 8192, **more: str
) -> Server:
    """A server that is not started yet.

    folder      takes the settings file and server.log
    flags       of `serve`, after FLAGS
    settings    YAML; empty for none
    tokens      KV slots
    more        environment variables, beside ONE_THREAD
    """
    arguments = ["--model-path", str(model), "--dtype", dtype, "--max-total-tokens", str(tokens), *FLAGS, *flags]
    if settings:
        file = folder / "indexcache.yaml"
        file.write_text(settings)
        arguments += ["--config", str(file)]
    return Server(arguments, folder / "server.log", {**ONE_THREAD, **more})


def post(server: Server, path: str, body: dict[str, Any] | None = None, timeout: float = 120) -> bytes:
    """The body of the answer to a POST request; any status but 200 raises."""
    request = urllib.request.Request(
        server.url + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        assert answer.status == 200
        return bytes(answer.read())


def refusal(*arguments: str, timeout: float = 120, code: int | None = 2, **environment: str) -> str:
    """The one sentence with which `serve` ends that must fail as a user's error.

    arguments   of `serve`
    code        the exit status; None for any but 0
    environment beside this process's own
    """
    done = subprocess.run(
        [sys.executable, "-m", "sgl_indexcache.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode != 0 if code is None else done.returncode == code, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr[-3000:]
    return errors[0]
