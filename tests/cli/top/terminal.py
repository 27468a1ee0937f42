"""A terminal that is really one."""

import fcntl
import os
import pty
import select
import struct
import termios
import time

import pyte


class Terminal:
    """A process on a pseudo-terminal, and the screen that a person would see."""

    def __init__(self, command: list[str], columns: int, lines: int) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.seen = b""
        self._pid, self._file = pty.fork()
        if self._pid == 0:
            # A dictionary of its own: readline puts LINES and COLUMNS into the environment behind os.environ's back.
            hidden = ("COLUMNS", "LINES", "NO_COLOR")
            environment = {name: text for name, text in os.environ.items() if name not in hidden}
            os.execve(command[0], command, {**environment, "TERM": "xterm-256color"})
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def text(self) -> str:
        return "\n".join(self.screen.display)

    def wait(self, *words: str, seconds: float = 30.0) -> str:
        """Read until the screen shows all of these words."""
        end = time.monotonic() + seconds
        while not all(word in self.text() for word in words):
            assert time.monotonic() < end, f"not shown: {[w for w in words if w not in self.text()]}\n{self.text()}"
            assert self.read(), f"ended\n{self.text()}"
        return self.text()

    def read(self) -> bool:
        """Feed the screen; False when the process has closed the terminal."""
        ready, _, _ = select.select([self._file], [], [], 0.1)
        if ready:
            try:
                data = os.read(self._file, 65536)
            except OSError:  # Linux: the other side is closed
                return False
            self.seen += data
            self._stream.feed(data)
            return bool(data)
        return True

    def press(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def mode(self) -> int:
        return int(termios.tcgetattr(self._file)[3])

    def send(self, number: int) -> None:
        os.kill(self._pid, number)

    def finish(self) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + 20
        while self.read():
            assert time.monotonic() < end, f"it goes on\n{self.text()}"
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)
