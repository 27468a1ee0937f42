"""Traces: good ones are replayed as recorded, hostile ones refused with line and reason, nothing sent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_indexcache.loadtest.errors import LoadTestError, OptionError, TraceError, WorkloadError
from sgl_indexcache.loadtest.traces import load_trace, mooncake
from sgl_indexcache.loadtest.workload.material import IdMaterial, TextMaterial
from sgl_indexcache.loadtest.workload.plan import length

MATERIAL = IdMaterial(32, 256)
GOOD = {"timestamp": 0, "input_length": 700, "output_length": 4, "hash_ids": [1, 2]}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n")
    return path


HOSTILE = {
    "negative time": ({**GOOD, "timestamp": -1}, "timestamp is -1"),
    "time beyond all bounds": ({**GOOD, "timestamp": 1e300}, "timestamp is 1e"),
    "time is text": ({**GOOD, "timestamp": "now"}, "timestamp must be a number, it is text"),
    "no time": ({"input_length": 1, "output_length": 1, "hash_ids": [1]}, "timestamp must be a number, it is missing"),
    "time is true": ({**GOOD, "timestamp": True}, "it is a truth value"),
    "huge input": ({**GOOD, "input_length": 10**12}, "input_length is 1000000000000"),
    "absurd input": ('{"timestamp": 0, "input_length": 1' + "0" * 400 + ', "output_length": 1, "hash_ids": []}', ""),
    "negative input": ({**GOOD, "input_length": -5}, "input_length is -5"),
    "no input": ({**GOOD, "input_length": 0}, "allowed are 1"),
    "half a token": ({**GOOD, "input_length": 1.5}, "input_length must be a whole number"),
    "huge output": ({**GOOD, "output_length": 10**9}, "output_length is 1000000000"),
    "no output": ({**GOOD, "output_length": 0}, "output_length is 0"),
    "output is null": ({**GOOD, "output_length": None}, "output_length must be a whole number, it is null"),
    "blocks missing": ({k: v for k, v in GOOD.items() if k != "hash_ids"}, "hash_ids must be a list"),
    "blocks are text": ({**GOOD, "hash_ids": "12"}, "hash_ids must be a list of block ids, it is text"),
    "a negative block": ({**GOOD, "hash_ids": [1, -2]}, "hash_ids holds -2"),
    "a block too large": ({**GOOD, "hash_ids": [1, 2**63]}, "hash_ids holds"),
    "too few blocks": ({**GOOD, "hash_ids": [1]}, "needs 2 of 512"),
    "broken JSON": ('{"timestamp": 0, "input_length"', "broken JSON"),
    "not a number": ('{"timestamp": NaN, "input_length": 1, "output_length": 1, "hash_ids": [1]}', "broken JSON"),
    "not UTF-8": ('{"timestamp": 0, "x": "\udcff"}', "broken JSON"),
    "a list": ("[1, 2]", "an object is needed, this is a list"),
    "depth": ("[" * 100_000, "broken JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lines_are_refused_with_line_and_reason_and_nothing_is_sent(
    tmp_path: Path, serve: Callable[..., Any], run: Callable[..., Any], name: str
) -> None:
    line, reason = HOSTILE[name]
    text = json.dumps(GOOD) + "\n\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n"
    path = tmp_path / "t.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    server = serve()
    with pytest.raises(TraceError) as caught:
        run(server.url, trace=path, trace_format="mooncake")
    assert str(caught.value).startswith("t.jsonl line 3: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400
    assert server.mock.count == 0


def test_files_that_are_no_traces(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text("\n \n")
    for name, reason in (("missing", "no file"), ("empty", "empty"), ("blank", "holds no request")):
        with pytest.raises(TraceError, match=reason):
            load_trace(tmp_path / name, "mooncake", MATERIAL, 0)
    with pytest.raises(OptionError, match="unknown"):
        load_trace(write(tmp_path / "t", GOOD), "pcap", MATERIAL, 0)
    with pytest.raises(OptionError, match="no trace that we know"):
        load_trace(write(tmp_path / "u", {"a": 1}), "auto", MATERIAL, 0)


NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5), st.integers(0, 3000))


@settings(max_examples=150)
@given(
    st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {"timestamp": NUMBERS, "input_length": NUMBERS, "output_length": NUMBERS,
                 "hash_ids": st.one_of(NUMBERS, st.lists(NUMBERS, max_size=6))}
            ),
            st.text(max_size=40),
        ),
        max_size=5,
    )
)  # fmt: skip
def test_any_file_is_either_refused_in_one_sentence_or_whole(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any] | str]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    encoded = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("\n".join(encoded).encode(errors="replace"))
    try:
        trace = load_trace(path, "mooncake", MATERIAL, 0)
    except LoadTestError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert "\n" not in said
        return
    sessions = list(trace.sessions)
    assert len(sessions) == trace.count > 0
    assert all(session.start_s is not None and session.start_s >= 0 for session in sessions)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(1, 4000), st.integers(1, 500), st.integers(0, 3)),
        min_size=1, max_size=12,
    )
)  # fmt: skip
def test_well_formed_traces_keep_lengths_order_and_shared_prefixes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    lines = [
        {"timestamp": at, "input_length": size, "output_length": out,
         "hash_ids": [1000 * tree + place for place in range(-(-size // 512))]}
        for at, size, out, tree in rows
    ]  # fmt: skip
    write(path, *lines)
    sessions = list(load_trace(path, "auto", MATERIAL, 0, "run", "salt").sessions)
    starts = [session.start_s for session in sessions]
    assert starts == sorted(starts)
    assert starts[0] == 0
    ordered = sorted(lines, key=lambda line: line["timestamp"])
    seen: dict[int, list[int]] = {}
    for session, line in zip(sessions, ordered, strict=True):
        assert length(session.turns[0].new) == line["input_length"]
        assert session.turns[0].output_tokens == line["output_length"]
        ids = session.turns[0].new[0].ids.tolist()
        tree = line["hash_ids"][0]
        before = seen.get(tree)
        if before is not None:
            common = min(len(before), len(ids))
            assert ids[:common] == before[:common], "equal block ids are equal tokens"
            assert session.sent_before > 0
        else:
            assert session.sent_before == 0
        seen[tree] = max(before or [], ids, key=len)


def test_content_depends_on_seed_and_block_alone() -> None:
    request = [mooncake.Request(0.0, 1024, 1, [5, 6])]
    one, two, other = (next(mooncake.sessions(request, MATERIAL, seed, None)).turns[0].new[0].ids for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_replay_keeps_times_and_speed(tmp_path: Path, simulate: Callable[..., Any], run: Callable[..., Any]) -> None:
    lines = [{**GOOD, "timestamp": 200 * number, "hash_ids": [1, number + 2]} for number in range(5)]
    path = write(tmp_path / "t.jsonl", *lines)
    for speed in (1.0, 2.0):
        server = simulate()
        document, records = run(server.url, trace=path, speed=speed)
        offsets = [seen.received - server.mock.log[0].received for seen in server.mock.log]
        assert offsets == pytest.approx([0.2 * number / speed for number in range(5)], abs=1e-9)
        assert [record.planned for record in records] == ["cold"] + ["warm"] * 4
        assert document["run"]["trace"] == "t.jsonl", "the name alone, no folder"


SHAREGPT = [
    {"id": "a", "conversations": [
        {"from": "gpt", "value": "stray"}, {"from": "human", "value": "Why is the sky blue?"},
        {"from": "gpt", "value": "Scattering. " * 4}, {"from": "human", "value": "And red?"},
        {"from": "gpt", "value": "A longer way."}, {"from": "human", "value": "unanswered"},
    ]},
    {"id": "b", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello there"}]},
    {"id": "c", "conversations": []},
]  # fmt: skip


@pytest.mark.parametrize("form", ["list", "lines", "messages"])
def test_sharegpt_becomes_sessions(
    tmp_path: Path, serve: Callable[..., Any], run: Callable[..., Any], form: str
) -> None:
    data: list[dict[str, Any]] = SHAREGPT
    if form == "messages":
        roles = {"human": "user", "gpt": "assistant"}
        data = [
            {"messages": [{"role": roles[m["from"]], "content": m["value"]} for m in item["conversations"]]}
            for item in SHAREGPT
        ]
    text = json.dumps(data) if form == "list" else "\n".join(map(json.dumps, data))
    (tmp_path / "s.json").write_text(text)
    server = serve()
    _, records = run(server.url, trace=tmp_path / "s.json", api="chat", concurrency=1)
    assert [(record.session, record.turn) for record in records] == [("0", 0), ("0", 1), ("1", 0)]
    last = server.mock.log[1].body["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert last[1]["content"] == "Why is the sky blue?"
    assert server.mock.log[0].body["max_tokens"] == 12


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"conversations": [{"from": "human", "value": 3}]}]', "conversation 1: value must be text"),
        ('[{"conversations": [{"from": "demon", "value": "x"}]}]', "role 'demon' is unknown"),
        ('[{"conversations": {}}]', "conversation 1: conversations must be a list"),
        ('[{"conversations": []}, 3]', "conversation 2: an object is needed"),
        ('[{"conversations": [', "broken JSON"),
        ('{"conversations": []}\n{"conversations": [7]}', "line 2: an object is needed"),
        ('[{"conversations": []}]', "no conversation with a question"),
    ],
)
def test_hostile_sharegpt(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=reason):
        load_trace(path, "auto", TextMaterial(), 0)


def test_text_as_token_ids_needs_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(SHAREGPT))
    with pytest.raises(WorkloadError, match="add --tokenizer"):
        load_trace(path, "sharegpt", MATERIAL, 0)


def test_our_own_run_is_replayed_with_the_same_bytes(
    tmp_path: Path, serve: Callable[..., Any], run: Callable[..., Any]
) -> None:
    first, again = serve(), serve()
    run(first.url, workload="demo", sessions=3, concurrency=2, salt="s", out=tmp_path / "r")
    run(again.url, trace=tmp_path / "r" / "report.json", salt="s")
    bodies = [sorted(json.dumps(seen.body) for seen in server.mock.log) for server in (first, again)]
    assert bodies[0] == bodies[1]


def test_hostile_recordings(tmp_path: Path, serve: Callable[..., Any], run: Callable[..., Any]) -> None:
    run(serve().url, workload="demo", sessions=1, out=tmp_path / "r")
    good = json.loads((tmp_path / "r" / "report.json").read_text())
    path = tmp_path / "x.json"
    for change, reason in (
        ({"requests": [{"index": 0, "intended": -1.0}]}, "request 1: intended is -1"),
        ({"requests": [{"index": "0", "intended": 0.0}]}, "request 1: index must be a whole number"),
        ({"requests": []}, "no request"),
        ({"run": {**good["run"], "workload": {"turns": -1}}}, "workload is refused"),
        ({"run": {**good["run"], "workload": None}}, "report of a replay"),
        ({"schema": "other"}, "no report"),
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(TraceError, match=reason):
            load_trace(path, "recording", MATERIAL, 0)
