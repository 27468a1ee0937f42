"""Which kernel serves a shape: the table, the settings, and what is refused."""

import json
from typing import Any

import pytest

from sgl_indexcache.attention import choice
from sgl_indexcache.attention.choice import ChoiceError, Chooser, Entry, Table, best
from sgl_indexcache.settings import Kernels

TABLE = Table(
    device="a test",
    origin="a test",
    consumers=(
        Entry("decode", 32, 1, {"fa3": 10, "flashinfer": 16, "flashmla": 56}),
        Entry("decode", 32, 32, {"fa3": 50, "flashinfer": 30, "flashmla": 62}),
        Entry("prefill", 32, 4096, {"flashinfer": 1980, "flashmla": 1850}),
    ),
    indexers=(
        Entry("decode", 32, 32, {"sglang": 100, "ours": 50}, keys=120_000),
        Entry("decode", 32, 32, {"sglang": 20, "ours": 30}, keys=4_000),
        Entry("prefill", 32, 4096, {"sglang": 9300, "ours": 6500}, keys=200_000),
    ),
)


def chooser(**changes: Any) -> Chooser:
    fields = {"settings": Kernels(), "heads": 32, "index_heads": 32, "kv": "bf16", "hopper": True, "ours": True}
    return Chooser(**{**fields, "table": TABLE, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "rows", "expected"),
    [
        ("decode", 1, "fa3"),
        ("decode", 2, "fa3"),
        # The two lines cross between 7 and 8 rows.
        ("decode", 8, "flashinfer"),
        ("decode", 32, "flashinfer"),
        ("decode", 500, "flashinfer"),
        ("prefill", 64, "flashmla"),
        ("prefill", 8192, "flashmla"),
    ],
)
def test_auto_takes_the_fastest(phase: Any, rows: int, expected: str) -> None:
    assert chooser().consumer(phase, rows) == expected


@pytest.mark.parametrize(
    "changes",
    [{"heads": 64}, {"kv": "fp8"}, {"hopper": False}, {"settings": Kernels(decode="sglang")}],
    ids=["heads-not-measured", "fp8", "other-gpu", "asked"],
)
def test_sglang_serves_what_was_not_measured(changes: dict[str, Any]) -> None:
    assert chooser(**changes).consumer("decode", 32) == "sglang"


def test_settings_go_over_the_table() -> None:
    asked = chooser(settings=Kernels(indexer="ours", prefill="fa3", decode="flashmla"))
    assert (asked.consumer("prefill", 4096), asked.consumer("decode", 32)) == ("fa3", "flashmla")
    assert asked.indexer("decode", 32, 4_000) == "ours"


def test_an_indexer_must_win_at_every_length_that_a_graph_may_serve() -> None:
    assert chooser().indexer("decode", 32) == "sglang"
    assert chooser().indexer("decode", 32, 100_000) == "ours"
    assert chooser().indexer("decode", 32, 5_000) == "sglang"
    assert chooser().indexer("prefill", 4096) == "ours"
    assert chooser(ours=False).indexer("prefill", 4096) == "sglang"
    assert chooser(index_heads=64).indexer("prefill", 4096) == "sglang"


def test_a_narrow_win_is_no_win() -> None:
    assert best({"fa3": 10.0, "flashinfer": 9.9}, "fa3") == "fa3"
    assert best({"fa3": 10.0, "flashinfer": 9.0}, "fa3") == "flashinfer"
    assert best({"flashinfer": 9.0}, "fa3") == "fa3", "without a measurement of the peer nothing is known"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": Kernels(decode="flashinfer"), "kv": "fp8"}, "reads bf16 KV only"),
        ({"settings": Kernels(prefill="fa3"), "hopper": False}, "needs a Hopper GPU"),
        ({"settings": Kernels(indexer="ours"), "ours": False}, "kernels.indexer: ours needs"),
    ],
)
def test_what_cannot_serve_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ChoiceError, match=sentence):
        chooser(**changes)


def test_the_shipped_table_is_read_and_never_prefers_a_slower_kernel() -> None:
    shipped = Table.of(json.loads(choice.FILE.read_text()))
    for entry in shipped.consumers:
        found = chooser(table=shipped, heads=entry.heads).consumer(entry.phase, entry.rows)
        peer = choice.SGLANG_CONSUMER[entry.phase]
        assert found == "sglang" or entry.us[found] <= entry.us[peer]


def test_another_schema_is_refused() -> None:
    with pytest.raises(ChoiceError, match="bench kernels --fill"):
        Table.of({"schema": "x/0"})


def test_description_names_the_rows_from_which_another_kernel_takes_over() -> None:
    assert chooser().described()["decode"] == {
        "score": "SGLang",
        "select": "SGLang",
        "attention": "fa3, flashinfer from 32 rows",
    }
    assert chooser().described()["prefill"]["score"] == "score_select (Triton)"
