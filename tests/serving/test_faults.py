"""Faults on the real server: streams cut off, a scheduler killed, a restart, SIGTERM under load. Tests run in order."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sgl_indexcache.live.server import Server
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

from ..engine import greedy
from ..server import cpu_server, post

pytestmark = pytest.mark.engine

STREAMS = 500
AT_ONCE = 24
SETTINGS = "pattern: FSF\nstore: {enabled: true, snapshot_mib: 8, self_check: true}\n"
FLAGS = ["--max-running-requests", "8", "--skip-server-warmup", "--enable-metrics"]
BUSY = ("sglang:num_running_reqs", "sglang:num_queue_reqs")
MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring" / "generate.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One address; the tests kill what serves there and start it again."""
    folder = tmp_path_factory.mktemp("faults")
    model = write_random_model(folder / "model", RandomModelSpec(layers=3, index_topk=64))
    silent = {"SGL_INDEXCACHE_TELEMETRY__EVENTS": "false"}
    with cpu_server(folder, model, *FLAGS, settings=SETTINGS, **silent) as running:
        yield running


def body(prompt: list[int], tokens: int, *, stream: bool = True) -> dict[str, Any]:
    return {"input_ids": prompt, "sampling_params": greedy(tokens), "stream": stream}


def generate(server: Server, prompt: list[int], tokens: int = 2) -> dict[str, Any]:
    return dict(json.loads(post(server, "/generate", body(prompt, tokens, stream=False), timeout=60)))


def metrics(server: Server) -> str:
    """/metrics as Prometheus asks for it with the scrape protocol that our configurations name."""
    request = urllib.request.Request(server.url + "/metrics", headers={"Accept": "text/plain;version=0.0.4;q=0.2"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def scraped(server: Server) -> dict[str, float]:
    """Every sample's value, summed over its labels."""
    text = metrics(server)
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def health_status(server: Server) -> int | None:
    """What /health answers; None when nobody listens."""
    try:
        with urllib.request.urlopen(server.url + "/health", timeout=25) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def process(server: Server) -> psutil.Process:
    assert server._process is not None
    return psutil.Process(server._process.pid)


def test_health_says_that_the_plugin_serves(server: Server) -> None:
    command = [sys.executable, "-m", "sgl_indexcache.cli", "health", "--url", server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "healthy\n"), done.stderr


async def cut_off(session: aiohttp.ClientSession, url: str, random: Random, shared: list[int]) -> str:
    """Begin a stream and leave it at a random moment: before its answer, after some of its tokens, or at its end."""
    prompt = shared[: random.choice((0, 64, 256))] + random.choices(range(256), k=random.randint(1, 200))
    patience = random.choice((0.001, 0.02, 0.1, 0.3, 60.0))
    chunks = random.choice((1, 2, 5, 10_000))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            async with session.post(url + "/generate", json=body(prompt, random.randint(1, 24))) as answer:
                assert answer.status == 200
                seen = 0
                async for line in answer.content:
                    if line.strip() == b"data: [DONE]":
                        return "ended"
                    seen += line.startswith(b"data: ")
                    if seen >= chunks:
                        answer.close()
                        return "in the stream"
    return "before the stream"


async def cut_off_many(url: str, number: int) -> dict[str, int]:
    """How many streams were left at which moment."""
    random = Random(11)
    shared = random.choices(range(256), k=256)
    slots = asyncio.Semaphore(AT_ONCE)
    moments: dict[str, int] = {}

    async def one(session: aiohttp.ClientSession) -> None:
        async with slots:
            moment = await cut_off(session, url, random, shared)
        moments[moment] = moments.get(moment, 0) + 1

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(one(session) for _ in range(number)))
    return moments


def test_streams_that_are_cut_off_leave_nothing_behind(server: Server) -> None:
    moments = asyncio.run(cut_off_many(server.url, STREAMS))
    assert sum(moments.values()) == STREAMS
    assert min(moments.get(name, 0) for name in ("before the stream", "in the stream", "ended")) > STREAMS // 50
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        values = scraped(server)
        store = server.indexcache_state()["store"]
        if store["requests"] == 0 and not any(values[name] for name in BUSY):
            break
        time.sleep(0.5)
    assert [values[name] for name in BUSY] == [0, 0]
    assert (store["requests"], store["live"], store.get("reading", 0)) == (0, 0, 0)
    assert store["free"] + store["held"] == store["slots"]
    # Prefixes are still cached; a flush, which SGLang refuses while a request lives, leaves nothing.
    post(server, "/flush_cache", timeout=30)
    generate(server, [1])
    store = server.indexcache_state()["store"]
    assert (store["held"], store["live"], store["requests"], store["free"]) == (0, 0, 0, store["slots"])
    assert health_status(server) == 200


def test_every_metric_that_rules_and_dashboard_name_is_scraped(server: Server) -> None:
    listed = subprocess.run([sys.executable, MONITORING, "--metrics"], capture_output=True, text=True, check=True)
    named = set(listed.stdout.split())
    assert len(named) > 30
    generate(server, prompt := [7] * 100)
    generate(server, prompt)  # so that something was cached
    deadline = time.monotonic() + 20
    while (missing := named - scraped(server).keys()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert missing == set()


def test_the_objective_is_a_bucket(server: Server) -> None:
    """The rules count first tokens by the bucket le="2.0", which is SGLang's to have."""
    lines = metrics(server).splitlines()
    assert any(line.startswith("sglang:time_to_first_token_seconds_bucket") and 'le="2.0"' in line for line in lines)


def test_a_killed_scheduler_ends_the_server(server: Server) -> None:
    main = process(server)
    schedulers = [child for child in main.children(recursive=True) if "scheduler" in " ".join(child.cmdline())]
    assert schedulers, [child.cmdline() for child in main.children(recursive=True)]
    family = main.children(recursive=True)
    schedulers[0].send_signal(signal.SIGKILL)
    assert server._process is not None
    assert server._process.wait(30) != 0
    assert health_status(server) is None
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_restart_serves_again_with_an_empty_store(server: Server) -> None:
    server.stop()
    server.start()
    store = server.indexcache_state()["store"]
    assert (store["held"], store["live"], store["lookups"]) == (0, 0, 0)
    prompt = Random(3).choices(range(256), k=200)
    assert generate(server, prompt)["meta_info"]["cached_tokens"] == 0
    assert generate(server, prompt)["meta_info"]["cached_tokens"] == 192
    assert server.indexcache_state()["store"]["hits"] == 1


async def drain_under_load(server: Server) -> tuple[list[int], int, int | None]:
    """Tokens of streams that run while SIGTERM comes, then the status of a new request and of /health."""
    wanted = 60
    begun = asyncio.Event()

    async def stream(session: aiohttp.ClientSession, number: int) -> int:
        async with session.post(server.url + "/generate", json=body([number] * 40, wanted)) as answer:
            assert answer.status == 200
            last: dict[str, Any] = {}
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    last = json.loads(line.removeprefix(b"data: "))
                    begun.set()
            return int(last["meta_info"]["completion_tokens"])

    async with aiohttp.ClientSession() as session:
        running = [asyncio.create_task(stream(session, number)) for number in range(12)]
        await begun.wait()
        process(server).send_signal(signal.SIGTERM)
        status = 200
        while status == 200:  # the signal needs a moment
            async with session.post(server.url + "/generate", json=body([1], 1)) as answer:
                status = answer.status
                await answer.read()
        assert not all(task.done() for task in running)
        health = await asyncio.to_thread(health_status, server)
        return list(await asyncio.gather(*running)), status, health


def test_sigterm_finishes_what_runs_and_refuses_what_is_new(server: Server) -> None:
    """The last one: it ends the server."""
    assert server._process is not None
    family = process(server).children(recursive=True)
    tokens, status, health = asyncio.run(drain_under_load(server))
    assert tokens == [60] * 12  # more than run at once: some were still waiting
    assert (status, health) == (503, 503)
    assert server._process.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert not os.path.exists(f"/proc/{server._process.pid}/task")
