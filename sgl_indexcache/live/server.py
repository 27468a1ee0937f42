"""Start a server as a child process, wait until it is healthy, and stop it with everything it started."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sgl_indexcache.live.errors import LiveError


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`sgl-indexcache serve` in a process group of its own; a context manager, or start() and stop().

    arguments    what follows `serve`; host and port are added
    log          file that takes the server's output
    environment  added to this process's environment
    timeout      seconds within which it must be healthy
    waiting      called about once a second while the server starts, with the seconds passed
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        timeout: float = 240.0,
        waiting: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [sys.executable, "-m", "sgl_indexcache.cli", "serve", *arguments]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port)]
        self._environment = {**os.environ, **(environment or {})}
        self._timeout = timeout
        self.waiting = waiting
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def start(self) -> None:
        """Start the process and wait until it is healthy; on any failure nothing is left running.

        Raises:
            LiveError: it ended, or was not healthy in time.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < self._timeout:
            if (code := self._process.poll()) is not None:
                raise LiveError(f"the server exited with code {code}: {self._last_words()}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass  # not listening yet
            self.waiting(passed)
            time.sleep(0.5)
        raise LiveError(f"the server was not healthy after {self._timeout:.0f} s; see {self.log}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")

    def get(self, path: str) -> Any:
        """The JSON answer to a GET request."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def indexcache_state(self) -> dict[str, Any]:
        """What /server_info says of the plugin: version, pattern, scoring, work."""
        state = self.get("/server_info")["internal_states"][0]
        return dict(state["indexcache"])

    def stop(self, grace: float = 20.0) -> int | None:
        """Ask the server to end, then end its whole process group; returns its exit code."""
        process = self._process
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
