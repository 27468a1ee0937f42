"""A server that does not outlive the process that started it, however that process ends."""

import subprocess
import sys

from sgl_indexcache.live.server import Server

# Waits for the end of its standard input, which the operating system closes with the process that holds it.
_WATCH = "import os, signal, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), signal.SIGKILL)"


class KeptServer(Server):
    """server.Server for hours of unattended measuring: a watcher ends it when nobody else can."""

    _watcher: "subprocess.Popen[bytes] | None" = None

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        self._watcher = subprocess.Popen(
            [sys.executable, "-S", "-c", _WATCH, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        super()._wait_until_healthy()

    def stop(self, grace: float = 20.0) -> int | None:
        """As server.Server.stop; the watcher ends after the server, so that no moment is unwatched."""
        try:
            return super().stop(grace)
        finally:
            watcher, self._watcher = self._watcher, None
            if watcher is not None:
                watcher.kill()
                watcher.communicate()
