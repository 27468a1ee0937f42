"""Runs against the scripted server: what is sent, and that the figures are those of the server's own log."""

import hashlib
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from sgl_indexcache.loadtest.drive.shape import Level
from sgl_indexcache.loadtest.execute import exit_code
from sgl_indexcache.loadtest.measure.slo import parse_slo


def nearest_rank(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def bodies(server: Any) -> list[str]:
    return [hashlib.sha256(json.dumps(seen.body).encode()).hexdigest() for seen in server.mock.log]


@pytest.mark.parametrize("api", ["generate", "chat", "completions"])
def test_percentiles_are_those_of_the_servers_own_log(
    simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any, api: str
) -> None:
    delays = [0.03 + 0.004 * (number * 7 % 20) for number in range(40)]
    server = simulate(lambda number: mocks.Plan(ttft=delays[number], gaps=(0.012, 0.02)))
    document, records = run(server.url, api=api, sessions=40, concurrency=4)
    latency = document["stages"][0]["summary"]["groups"]["all"]["latency"]
    log = server.mock.log
    assert len(records) == len(log) == 40
    ttft = [seen.emitted[0] - seen.received for seen in log]
    itl = [b - a for seen in log for a, b in pairwise(seen.emitted)]
    tpot = [(seen.emitted[-1] - seen.emitted[0]) / 7 for seen in log]
    for name, true in (("ttft", ttft), ("itl", itl), ("tpot", tpot)):
        assert latency[name]["count"] == len(true)
        for percent in (50, 90):
            assert latency[name][f"p{percent}"] == pytest.approx(nearest_rank(true, percent), abs=1e-9)
    assert sorted(ttft) == pytest.approx(sorted(delays), abs=1e-9), "the log has the injected delays"
    assert all(record.output == 8 and record.events == 8 for record in records)
    assert exit_code(document) == 0


@pytest.mark.parametrize("api", ["generate", "chat"])
@pytest.mark.parametrize(
    ("together", "pauses", "gaps"),
    [(1, (0.02,), [0.02] * 7), (2, (0.0, 0.02), [0.0] + [0.01] * 6), (8, (0.0,), [0.0] * 7)],
)
def test_there_is_a_gap_for_every_token_after_the_first_and_they_sum_to_the_stream(
    simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any, api: str, together: int,
    pauses: tuple[float, ...], gaps: list[float],
) -> None:  # fmt: skip
    """Tokens of one read share its gap; those that come with the first token have gaps of 0."""
    server = simulate(lambda number: mocks.Plan(ttft=0.1, gaps=pauses, together=together))
    document, (record,) = run(server.url, api=api, sessions=1)
    latency = document["stages"][0]["summary"]["groups"]["all"]["latency"]
    assert latency["itl"]["count"] == len(gaps) == record.output - 1
    assert latency["itl"]["mean"] == pytest.approx(latency["tpot"]["mean"]) == pytest.approx(sum(gaps) / 7)
    assert record.last - record.first == pytest.approx(sum(gaps))
    for percent in (50, 90):
        assert latency["itl"][f"p{percent}"] == pytest.approx(nearest_rank(gaps, percent))


def test_two_runs_with_one_salt_send_the_same_bytes_and_others_do_not(
    serve: Callable[..., Any], run: Callable[..., Any]
) -> None:
    def sent(**keys: Any) -> list[str]:
        server = serve()
        run(server.url, workload="demo", sessions=3, concurrency=1, **keys)
        return bodies(server)

    first = sent(salt="x", seed=1)
    assert first == sent(salt="x", seed=1)
    assert len(set(first)) > 3
    assert not set(first) & set(sent(salt="y", seed=1))
    assert not set(first) & set(sent(salt="x", seed=2))
    assert not set(first) & set(sent(seed=1)), "without a given salt every run draws its own"


def test_turns_extend_the_prompt_before_them(serve: Callable[..., Any], run: Callable[..., Any]) -> None:
    from sgl_indexcache.loadtest.workload.spec import load_workload

    server = serve()
    run(server.url, workload=load_workload("demo", ["subagents.chance=0"]), sessions=1, concurrency=1)
    prompts = [seen.body["input_ids"] for seen in server.mock.log]
    assert len(prompts) >= 4
    assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(prompts))


def test_actual_replies_stand_in_the_next_prompt(serve: Callable[..., Any], run: Callable[..., Any]) -> None:
    from sgl_indexcache.loadtest.workload.spec import load_workload

    for api, needle in (("generate", [97] * 16), ("chat", "a" * 16)):
        server = serve()
        workload = load_workload("demo", ["replies=actual", "subagents.chance=0", "repeat_chance=0"])
        run(server.url, workload=workload, sessions=1, concurrency=1, api=api)
        body = server.mock.log[1].body
        if api == "chat":
            assert [m["content"] for m in body["messages"] if m["role"] == "assistant"] == [needle]
        else:
            first = server.mock.log[0].body["input_ids"]
            assert body["input_ids"][len(first) : len(first) + 16] == needle


def test_classes_follow_the_plan(serve: Callable[..., Any], run: Callable[..., Any]) -> None:
    from sgl_indexcache.loadtest.workload.spec import load_workload

    workload = load_workload("demo", ["repeat_chance=1", "subagents.chance=1", "subagents.count=2"])
    _, records = run(serve().url, workload=workload, sessions=1, concurrency=1)
    assert records[0].planned == "cold"
    kinds = {(record.kind, record.planned) for record in records[1:]}
    assert kinds == {("repeat", "repeat"), ("turn", "warm"), ("branch", "warm")}
    assert [record.new for record in records if record.kind == "repeat"] == [0] * 12
    warm = next(record for record in records if (record.kind, record.planned) == ("turn", "warm"))
    assert 0 < warm.new < warm.context / 2


def test_omission_is_accounted(simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any) -> None:
    """One place, ten arrivals a second, one stall of a second: those behind it waited, and it shows."""
    server = simulate(lambda number: mocks.Plan(ttft=1.0 if number == 3 else 0.005))
    levels = [Level("open", 10, 10, arrivals="constant")]
    document, records = run(server.url, levels=levels, sessions=15, max_in_flight=1)
    latency = document["stages"][0]["summary"]["groups"]["all"]["latency"]
    records.sort(key=lambda record: record.intended)
    assert [record.intended - records[0].intended for record in records] == pytest.approx(
        [0.1 * number for number in range(15)], abs=1e-6
    )
    assert latency["ttft"]["p90"] == pytest.approx(0.005), "by its own clock only one request was slow"
    assert latency["ttft_intended"]["p50"] > 0.3, "but half of the users waited"
    assert records[4].queueing == latency["queueing"]["max"] == pytest.approx(0.9)


def test_goodput_counts_from_the_intended_time(
    simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any
) -> None:
    server = simulate(lambda number: mocks.Plan(ttft=0.4 if number % 4 == 0 else 0.0))
    document, _ = run(server.url, sessions=20, concurrency=4, slo=parse_slo("ttft=200ms"))
    assert document["stages"][0]["summary"]["slo"]["goodput"] == 0.75


def test_warm_up_is_sent_but_not_measured(simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any) -> None:
    server = simulate(lambda number: mocks.Plan(ttft=0.3 if number < 3 else 0.0))
    document, records = run(server.url, sessions=10, concurrency=1, warmup_requests=3)
    summary = document["stages"][0]["summary"]
    assert (len(records), summary["requests"]) == (10, 7)
    assert summary["groups"]["all"]["latency"]["ttft"]["max"] < 0.2


def test_sweep_limits_and_duration(simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any) -> None:
    server = simulate(lambda number: mocks.Plan(ttft=0.02))
    levels = [Level("closed", n, n) for n in (1, 3)]
    document, records = run(server.url, levels=levels, requests=6)
    assert [stage["summary"]["requests"] for stage in document["stages"]] == [6, 6]
    assert {record.stage for record in records} == {0, 1}
    assert not {record.index for record in records if record.stage == 0} & {
        record.index for record in records if record.stage == 1
    }, "stages have their own sessions"
    document, records = run(server.url, levels=[Level("closed", 2, 2)], duration=0.5)
    assert max(record.sent for record in records) == pytest.approx(0.5, abs=0.03)
    assert all(record.ok for record in records), "what was under way may end"


def test_ramp_of_concurrency(simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any) -> None:
    server = simulate(lambda number: mocks.Plan(ttft=0.05))
    _, records = run(server.url, levels=[Level("closed", 1, 5, 1.0)], duration=1.2)
    early = sum(0.02 < record.sent < 0.18 for record in records)
    late = sum(1.02 < record.sent < 1.18 for record in records)
    assert (early, late) == (3, 15)


def test_server_series_stand_on_the_same_axis(
    simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any
) -> None:
    server = simulate(lambda number: mocks.Plan(ttft=0.05))
    document, _ = run(server.url, sessions=12, concurrency=2, scrape_interval=0.1)
    found = document["server"]
    assert found["change"]["indexcache.work.shared_keys"] == 300 * 12
    assert found["info"]["indexcache"]["pattern"] == "FSSS"
    assert found["constant"]["sglang:num_running_reqs"] == 3
    assert found["change"]['sgl_indexcache_recall_positions_total{result="found"}'] == 9 * 12
    assert found["constant"]["indexcache.recall"] == pytest.approx(0.9)
    assert found["constant"]['sgl_indexcache_store_bytes{part="snapshots"}'] == 1000
    assert "python_info" not in found["constant"]
    times = [time for time, _ in found["series"]["indexcache.work.full_keys"]]
    assert times == sorted(times)
    assert times[-1] >= document["stages"][0]["end"] - 0.1


def test_plain_bodies_hold_only_openai_fields(serve: Callable[..., Any], run: Callable[..., Any]) -> None:
    server = serve()
    _, records = run(server.url, api="chat", plain=True, sessions=1)
    assert set(server.mock.log[0].body) == {
        "model", "max_tokens", "temperature", "stream", "stream_options", "messages",
    }  # fmt: skip
    assert server.mock.log[0].body["stream_options"] == {"include_usage": True}
    assert records[0].events == records[0].output == 8
