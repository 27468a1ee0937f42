"""A server ends with the process that started it, in order or not."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Starts something that never becomes healthy, and writes down its process id.
PROGRAM = """
import sys
from pathlib import Path
from sgl_indexcache.live.kept_server import KeptServer

class Sleeper(KeptServer):
    def _wait_until_healthy(self):
        self._command, self._timeout = [], 60.0
        (out / "pid").write_text(str(self._process.pid))
        super()._wait_until_healthy()

out = Path(sys.argv[1])
server = Sleeper([], out / "log")
server._command = [sys.executable, "-c", "import time; time.sleep(120)"]
with server:
    pass
"""


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that its new parent has not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=subprocess.DEVNULL)
    note, deadline = tmp_path / "pid", time.monotonic() + 30
    while not note.exists() or not note.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    server = int(note.read_text())
    assert alive(server)
    process.send_signal(number)
    process.wait(30)
    while alive(server):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.05)
