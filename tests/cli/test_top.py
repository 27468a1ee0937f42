"""`sgl-indexcache top` against a small server that answers as told, and on a terminal that is really one."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyte
import pytest

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.telemetry.address import resolve
from sgl_indexcache.telemetry.events import Fallback, PatternChanged
from sgl_indexcache.telemetry.publisher import Publisher
from sgl_indexcache.telemetry.readings import Reader, Sources, spelled
from sgl_indexcache.telemetry.two_level import LayerRecall, TwoLevelWork
from sgl_indexcache.telemetry.work import IndexerWork
from sgl_indexcache.top import latency
from sgl_indexcache.top.figures import figures
from sgl_indexcache.top.source import NoAnswerError, Source, TopError, clean

TOP = [sys.executable, "-m", "sgl_indexcache.cli", "top"]
PATTERN = "FSSFSS"
METRICS = """# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="m"} 3.0
sglang:num_queue_reqs{model_name="m"} 1.0
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 1000.0
sglang:cached_tokens_total{model_name="m"} 900.0
sglang:generation_tokens_total{model_name="m"} 50.0
# TYPE sglang:time_to_first_token_seconds histogram
sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 5.0
sglang:time_to_first_token_seconds_bucket{le="0.2",model_name="m"} 10.0
sglang:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 10.0
sglang:time_to_first_token_seconds_count{model_name="m"} 10.0
sglang:time_to_first_token_seconds_sum{model_name="m"} 1.0
"""


class Server:
    """Answers of a server, by path; each may be changed while it runs. Counts what it was asked."""

    def __init__(self) -> None:
        self.work = IndexerWork(full_rows=100, full_keys=10_000, shared_rows=200, shared_keys=20_000)
        self.two_level = TwoLevelWork(rows=60, exact_rows=40, exact_keys=2_000, keys_seen=10_000, keys_scored=6_000)
        self.two_level.layers[0] = LayerRecall(rows=4, wanted=256, found=250)
        self.two_level.layers[3] = LayerRecall(rows=4, wanted=256, found=200)
        self.events: dict[str, str] | None = None
        self.model = "some-model"
        self.asked: list[tuple[str, str | None]] = []
        self.answers: dict[str, Callable[[], tuple[int, str]]] = {
            "/server_info": lambda: (200, json.dumps(self.info())),
            "/metrics": lambda: (200, METRICS),
        }

    def info(self) -> dict[str, Any]:
        pages = type("Pages", (), {"used_bytes": 4096, "valid_pages": 7, "pages": 10})
        backend = type("Backend", (), {"work": self.work, "two_level": type("T", (), {"work": self.two_level})})
        backend.two_level.pages = pages  # type: ignore[attr-defined]
        backend.kernels = {("prefill", "indexer"): "ours", ("decode", "indexer"): "sglang"}  # type: ignore[attr-defined]
        store = type("S", (), {"snapshot": lambda _: {"held": 3, "live": 1, "free": 4, "lookups": 4, "hits": 3}})()
        found = Sources(backend=backend, pattern=Pattern(PATTERN), store=store, recall_floor=0.9)
        state = {
            "version": "0.1",
            "pattern": PATTERN,
            "scoring": "two_level",
            "telemetry": {"metrics": spelled(Reader().read(found)), "events": self.events},
        }
        return {"served_model_name": self.model, "internal_states": [{"indexcache": state}]}


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    answers = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append((self.path, self.headers.get("Authorization")))
            status, text = answers.answers.get(self.path, lambda: (404, ""))()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield answers, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TOP, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}, check=False
    )


def refused(*arguments: str, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


def test_the_figures(server: tuple[Server, str]) -> None:
    found = figures(server[1], Source(server[1]).look())
    assert (found["model"], found["pattern"], found["scoring"], found["active"]) == (
        "some-model", PATTERN, "two_level", True,
    )  # fmt: skip
    keys = found["indexer"]["keys"]
    # Of 30,000 keys Shared layers skipped 20,000 and shortlists 4,000.
    assert keys["skipped_share"] == pytest.approx(0.8)
    assert keys["skipped_share_by_reason"] == {
        "producer": pytest.approx(2 / 3), "shortlist": pytest.approx(4 / 30), "snapshot": 0.0,
    }  # fmt: skip
    assert found["snapshots"]["hit_rate"] == 0.75
    assert found["store"]["used_share"] == 0.5
    assert found["recall"]["mean"] == pytest.approx(450 / 512)
    assert [layer["kind"] for layer in found["layers"]] == list(PATTERN)
    assert [layer["producer"] for layer in found["layers"]] == [0, 0, 0, 3, 3, 3]
    assert found["layers"][4]["recall"] == pytest.approx(200 / 256)
    assert found["kernels"] == {"prefill": {"indexer": "ours"}, "decode": {"indexer": "sglang"}}
    assert found["latency"]["ttft_ms"] == {"p50": 100.0, "p90": pytest.approx(180.0), "p99": pytest.approx(198.0)}
    assert found["latency"]["itl_ms"] is None
    assert found["serving"]["prefix_hit_rate"] == 0.9
    assert found["serving"]["prompt_tokens_per_s"] is None


def test_of_two_looks_the_difference_counts(server: tuple[Server, str]) -> None:
    answers, url = server
    source = Source(url)
    before = source.look()
    answers.work.shared_rows += 10
    answers.work.shared_keys += 100
    later = METRICS.replace("1000.0", "1100.0").replace('"0.2",model_name="m"} 10.0', '"0.2",model_name="m"} 14.0')
    answers.answers["/metrics"] = lambda: (
        200,
        later.replace('"+Inf",model_name="m"} 10.0', '"+Inf",model_name="m"} 14.0'),
    )
    found = figures(url, source.look(), before)
    assert found["indexer"]["rows"] == {
        "scored": 0, "skipped": 10, "skipped_share": 1.0,
        "skipped_share_by_reason": {"producer": 1.0, "snapshot": 0.0},
    }  # fmt: skip
    assert found["interval_s"] > 0
    assert found["serving"]["prompt_tokens"] == 100
    assert found["serving"]["prompt_tokens_per_s"] > 0
    assert found["latency"]["ttft_ms"]["p50"] == pytest.approx(150.0)
    # The server was restarted: what it counts since is what there is.
    answers.work.shared_rows = 4
    assert figures(url, source.look(), before)["indexer"]["rows"]["skipped"] == 4


def test_percentiles_of_nothing_and_beyond_the_last_bound() -> None:
    assert latency.percentiles({}, {}) is None
    assert latency.percentiles({1.0: 3.0, float("inf"): 3.0}, {1.0: 3.0, float("inf"): 3.0}) is None
    found = latency.percentiles({1.0: 0.0, float("inf"): 4.0}, {})
    assert found is not None
    assert found["p99"] == 1000.0
    assert latency.read("this is { no format\n").values == {}


def test_ranks_are_added_up(server: tuple[Server, str]) -> None:
    answers, url = server
    one = answers.info()
    answers.answers["/server_info"] = lambda: (200, json.dumps({**one, "internal_states": one["internal_states"] * 2}))
    found = figures(url, Source(url).look())
    assert found["indexer"]["rows"]["skipped"] == 400
    assert found["store"]["held"] == 6
    assert found["recall"]["floor"] == 0.9
    assert found["recall"]["mean"] == pytest.approx(450 / 512)


def test_once_json_for_scripts(server: tuple[Server, str]) -> None:
    done = run("--once", "--json", "--url", server[1])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "sgl_indexcache.top/1"
    assert found["indexer"]["keys"]["skipped_share"] == pytest.approx(0.8)
    assert found["interval_s"] is None
    assert found["events"] == {
        "total": 0,
        "by_kind": dict.fromkeys(found["events"]["by_kind"], 0),
        "dropped": 0,
        "recent": [],
    }


def test_once_without_a_terminal_is_text(server: tuple[Server, str]) -> None:
    done = run("--once", "--url", server[1], COLUMNS="100")
    assert done.returncode == 0, done.stderr
    for words in ("some-model", "2 Full, 4 Shared", "80.0 %", "87.9 %", "F98 S S F78 S S", "ours", "100 ms"):
        assert words in done.stdout, words
    assert "\x1b" not in done.stdout


def test_without_metrics_the_plugins_figures_are_there(server: tuple[Server, str]) -> None:
    answers, url = server
    del answers.answers["/metrics"]
    found = json.loads(run("--once", "--json", "--url", url).stdout)
    assert found["latency"] is None
    assert found["serving"] is None
    assert found["indexer"]["keys"]["skipped_share"] == pytest.approx(0.8)
    assert "need --enable-metrics" in run("--once", "--url", url).stdout


def test_an_api_key_is_sent(server: tuple[Server, str]) -> None:
    answers, url = server
    assert run("--once", "--json", "--url", url, "--api-key-env", "KEY", KEY="s3cret").returncode == 0
    assert {key for _, key in answers.asked} == {"Bearer s3cret"}
    assert "KEY is empty" in refused("--once", "--url", url, "--api-key-env", "KEY", KEY="")


def test_nobody_answers() -> None:
    assert "no server answers at http://127.0.0.1:9" in refused("--once", "--url", "http://127.0.0.1:9")
    assert "not understood" in refused("--url", "127.0.0.1:9", "--once")
    assert "go together" in refused("--once", "--events-key", "x")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, ""), "it is not SGLang"),
        ((200, "<html>"), "not SGLang's"),
        ((200, "[]"), "not SGLang's"),
        ((200, '{"internal_states": [1]}'), "not SGLang's"),
        ((200, '{"internal_states": [{}]}'), "without sgl_indexcache in force"),
        ((200, '{"internal_states": [{"indexcache": {}}]}'), "another version"),
        ((200, "[" * 100_000), "not SGLang's"),
        ((401, ""), "wants an API key"),
        ((500, ""), "answers 500"),
    ],
)
def test_somebody_else_answers(server: tuple[Server, str], answer: tuple[int, str], words: str) -> None:
    server[0].answers["/server_info"] = lambda: answer
    with pytest.raises(TopError, match=words) as caught:
        Source(server[1]).look()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, NoAnswerError) == (answer[0] == 500)


def test_a_live_view_needs_a_terminal(server: tuple[Server, str]) -> None:
    assert "no terminal" in refused("--url", server[1])


def test_json_without_once_is_a_line_a_look(server: tuple[Server, str]) -> None:
    command = [*TOP, "--json", "--interval", "0.1", "--url", server[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(3)]
        server[0].answers["/server_info"] = lambda: (503, "")
        while json.loads(process.stdout.readline())["notice"] is None:
            pass
        process.send_signal(signal.SIGINT)
        process.wait(10)
    assert process.returncode == 0
    assert lines[0]["interval_s"] is None
    assert lines[2]["interval_s"] > 0


def test_a_servers_text_cannot_reach_the_terminal(server: tuple[Server, str]) -> None:
    server[0].model = "\x1b]0;owned\x07\x1b[2Jm"
    done = run("--once", "--url", server[1])
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert clean("a\x1b[31m\nb") == "a [31m b"


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
    time.sleep(0.2)
    mode = terminal.mode()
    assert terminal.finish() == code
    assert mode == before
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
