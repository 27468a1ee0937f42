"""`sgl-indexcache top` as a person sees it."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from sgl_indexcache.telemetry.address import resolve
from sgl_indexcache.telemetry.events import Fallback, PatternChanged
from sgl_indexcache.telemetry.publisher import Publisher

from .server import PATTERN, TOP, Server
from .terminal import Terminal


def test_on_a_terminal(server: tuple[Server, str]) -> None:
    answers, url = server
    folder = Path(tempfile.mkdtemp(prefix="ic"))  # tmp_path is too long for Unix sockets
    publisher = Publisher(resolve(f"ipc://{folder}", None, 0))
    answers.events = {"address": publisher.address.events, "replay_address": publisher.address.replay}
    try:
        publisher(PatternChanged(pattern=PATTERN, before="FFFFFF"))
        terminal = Terminal([*TOP, "--interval", "0.2", "--url", url], 100, 30)
        before = terminal.mode()
        text = terminal.wait("some-model", "80.0 %", "F98 S S F78 S S", f"pattern changed to {PATTERN}", "serving")
        assert "Traceback" not in text
        assert terminal.mode() != before  # keys are read one by one
        answers.work.shared_keys += 1_000_000
        terminal.wait("100.0 %", "last")
        publisher(Fallback(layer=3, reason="recall", turns=2))
        terminal.wait("fallback to exact scoring: layer 3, 2 turns (recall)")
        good = answers.answers["/server_info"]
        answers.answers["/server_info"] = lambda: (503, "")
        terminal.wait("answers 503")
        answers.answers["/server_info"] = good
        terminal.resize(60, 40)
        terminal.wait("recall and kernels")
        terminal.press("x")
        terminal.press("q")
        assert terminal.finish() == 0
        assert b"\x1b[?1049h" in terminal.seen  # the other screen, and back
        assert terminal.seen.rindex(b"\x1b[?1049l") > terminal.seen.rindex(b"\x1b[?1049h")
        assert terminal.seen.rindex(b"\x1b[?25h") > terminal.seen.rindex(b"\x1b[?25l")
    finally:
        publisher.close()
        shutil.rmtree(folder)


@pytest.mark.parametrize(("how", "code"), [("ctrl-c", 0), ("term", 143)])
def test_leaving_restores_the_terminal(server: tuple[Server, str], how: str, code: int) -> None:
    terminal = Terminal([*TOP, "--interval", "5", "--url", server[1]], 80, 24)
    before = terminal.mode()
    terminal.wait("indexer", "recall")
    # Ctrl-C is a signal to the foreground process, as in any terminal.
    terminal.press("\x03") if how == "ctrl-c" else terminal.send(signal.SIGTERM)
    assert terminal.finish() == code
    assert terminal.mode() == before
    assert b"Traceback" not in terminal.seen


@pytest.mark.skipif(
    shutil.which("tmux") is None, reason="tmux is not installed; the tests above use their own terminal"
)
def test_in_tmux(server: tuple[Server, str], tmp_path: Path) -> None:
    tmux = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    command = " ".join([*TOP, "--interval", "0.2", "--url", server[1]])
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "100", "-y", "30", f"{command}; echo left $?; sleep 30"], check=True
    )

    def shown(words: str) -> str:
        for _ in range(150):
            text = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout
            if words in text:
                return text
            time.sleep(0.2)
        raise AssertionError(text)

    try:
        assert "80.0 %" in shown("F98 S S F78 S S")
        subprocess.run([*tmux, "send-keys", "q"], check=True)
        assert "some-model" not in shown("left 0")
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
