"""The load tester against the real server: SGLang on the CPU with a small random model, one start for all."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sgl_indexcache.live.server import Server
from sgl_indexcache.loadtest.workload.spec import load_workload
from sgl_indexcache.nano.random_model import RandomModelSpec, write_random_model

from ..server import cpu_server

pytestmark = pytest.mark.engine

FLAGS = ["--max-running-requests", "8", "--chunked-prefill-size", "2048", "--skip-server-warmup"]
FLAGS += ["--enable-metrics", "--enable-cache-report"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("engine")
    spec = RandomModelSpec(architecture="glm_moe_dsa", layers=4, index_topk=64, index_n_heads=4, index_head_dim=32)
    model = write_random_model(folder / "model", spec)
    with cpu_server(folder, model, "--pattern", "FSSS", *FLAGS, tokens=16384) as running:
        running.model = model  # type: ignore[attr-defined]
        yield running


PATIENT = {"timeout": 40.0}
WORKLOAD = ["scale=0.4", "subagents.chance=0.5", "repeat_chance=0.5"]


def test_sessions_hit_the_cache_as_planned(server: Server, run: Callable[..., Any]) -> None:
    document, records = run(
        server.url,
        **PATIENT,
        workload=load_workload("demo", WORKLOAD),
        sessions=3,
        concurrency=1,
        scrape_interval=0.5,
    )
    assert document["status"] == "ok"
    assert all(record.prompt == record.context for record in records), "token ids are counted exactly"
    assert all(record.output == record.asked == record.events for record in records)
    groups = document["stages"][0]["summary"]["groups"]
    assert groups["cold"]["hit_rate"] < 0.5
    assert groups["warm"]["hit_rate"] > 0.5
    assert groups["repeat"]["hit_rate"] > 0.8
    change = document["server"]["change"]
    assert change["indexcache.work.shared_keys"] == pytest.approx(3 * change["indexcache.work.full_keys"])
    keys = "sgl_indexcache_indexer_keys_total"
    done, skipped = (
        f'{keys}{{layers="full",reason="exact",result="scored"}}',
        f'{keys}{{layers="shared",reason="producer",result="skipped"}}',
    )
    assert change[skipped] == pytest.approx(3 * change[done])
    store = {'sgl_indexcache_store_bytes{part="snapshots"}', 'sgl_indexcache_recall_positions_total{result="found"}'}
    assert store <= document["server"]["constant"].keys()
    assert document["server"]["info"]["indexcache"]["pattern"] == "FSSS"
    sent = sum(record.prompt for record in records)
    assert change["sglang:prompt_tokens_total"] == sent, "the server's own count"


def test_salted_runs_share_nothing(server: Server, run: Callable[..., Any]) -> None:
    keys = {"workload": load_workload("demo", WORKLOAD), "sessions": 1, "concurrency": 1}
    first = run(server.url, **PATIENT, **keys)[1][0]
    again = run(server.url, **PATIENT, **keys)[1][0]
    assert (first.cached, again.cached) == (0, 0)
    fixed = [run(server.url, **PATIENT, **keys, salt="fixed")[1][0].cached for _ in range(2)]
    assert fixed[0] == 0
    assert fixed[1] > 0


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_openai_apis(server: Server, run: Callable[..., Any], api: str) -> None:
    workload = load_workload("demo", [*WORKLOAD, "n={choice: {1: 1, 2: 1}}", "replies=actual"])
    document, records = run(server.url, **PATIENT, workload=workload, api=api, prompt="text", sessions=2, concurrency=2)
    assert document["status"] == "ok", document["stages"][0]["summary"]["failures"]
    assert {record.n for record in records} == {1, 2}
    assert [record.output for record in records] == [record.asked * record.n for record in records]
    # A request without cached tokens has no such field in its answer.
    assert any(record.cached for record in records)
    assert all(record.prompt for record in records)


def test_a_refused_request_is_a_failure(server: Server, run: Callable[..., Any]) -> None:
    workload = load_workload("demo", ["context_tokens=60000"])
    document, records = run(server.url, **PATIENT, workload=workload, sessions=1)
    assert document["status"] == "failed"
    # SGLang says so inside the stream, with HTTP status 200.
    assert (records[0].status, records[0].http) == ("error_event", 200)
    assert "longer than" in records[0].error
