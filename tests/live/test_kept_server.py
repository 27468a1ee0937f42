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
import time
from pathlib import Path
from sgl_indexcache.live.kept_server import KeptServer
from sgl_indexcache.live.server import Server

out = Path(sys.argv[1])

def wait_for_ever(self):
    # The watcher has been started by now.
    (out / "new").write_text(str(self._process.pid))
    (out / "new").rename(out / "pid")
    time.sleep(3600)

Server._wait_until_healthy = wait_for_ever
server = KeptServer([], out / "log")
server._command = [sys.executable, "-c", "import time; time.sleep(3600)"]
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
    note = tmp_path / "pid"
    while not note.exists():
        time.sleep(0.05)
    server = int(note.read_text())
    assert alive(server)
    process.send_signal(number)
    process.wait()
    while alive(server):
        time.sleep(0.05)
