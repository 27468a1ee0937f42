"""`sgl-indexcache top` against a small server that answers as told."""

import json
import os
import signal
import subprocess

import pytest

from sgl_indexcache.top import latency
from sgl_indexcache.top.figures import figures
from sgl_indexcache.top.source import NoAnswerError, Source, TopError, clean

from .server import METRICS, PATTERN, TOP, Server


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
        process.wait()
    assert process.returncode == 0
    assert lines[0]["interval_s"] is None
    assert lines[2]["interval_s"] > 0


def test_a_servers_text_cannot_reach_the_terminal(server: tuple[Server, str]) -> None:
    server[0].model = "\x1b]0;owned\x07\x1b[2Jm"
    done = run("--once", "--url", server[1])
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout
    assert clean("a\x1b[31m\nb") == "a [31m b"
