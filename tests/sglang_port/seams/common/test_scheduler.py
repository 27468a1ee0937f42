"""From SGLang's batch to rows that the store is told of."""

from array import array
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.base import BrokenSeamError
from sgl_indexcache.sglang_port.seams.common import scheduler
from sgl_indexcache.store import RequestRows


def request(name: str, index: int, tokens: range, **changed: Any) -> Any:
    known: dict[str, Any] = {
        "rid": name,
        "req_pool_idx": index,
        "cache_protected_len": 0,
        "last_node": None,
        "input_embeds": None,
        "positional_embed_overrides": None,
        "multimodal_inputs": None,
        "get_fill_ids": lambda: array("q", tokens),
    }
    return SimpleNamespace(**{**known, **changed})


def batch(mode: str, reqs: list[Any], **changed: Any) -> Any:
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    known: dict[str, Any] = {"forward_mode": ForwardMode[mode], "reqs": reqs, "decoding_reqs": None}
    return SimpleNamespace(**{**known, **changed})


class Tree:
    page_size = 4

    def tails_after(self, node: Any) -> list[Any]:
        return [node]


def test_decode() -> None:
    found = scheduler.rows_of(
        batch("DECODE", [request("a", 3, range(9)), request("b", 1, range(5))], seq_lens_cpu=torch.tensor([10, 6])),
        None,
    )
    assert found == [RequestRows(3, "a", 9, 10), RequestRows(1, "b", 5, 6)]


def test_idle() -> None:
    assert scheduler.rows_of(batch("IDLE", []), None) == []


def test_a_prefill_looks_only_where_a_cached_prefix_ends() -> None:
    reqs = [
        request("hit", 1, range(11), cache_protected_len=8, last_node="node"),
        request("cold", 2, range(6)),
        request("elsewhere", 3, range(20), cache_protected_len=8, last_node="node"),
    ]
    found = scheduler.rows_of(batch("EXTEND", reqs, prefix_lens=[8, 0, 16], extend_lens=[3, 6, 4]), Tree())
    assert found[0] == RequestRows(1, "hit", 8, 11, True, array("q", [8, 9, 10]), ["node"])
    assert found[1] == RequestRows(2, "cold", 0, 6, True)
    assert found[2] == RequestRows(3, "elsewhere", 16, 20, True)


@pytest.mark.parametrize("follows", [True, False])
def test_a_forward_is_announced_with_what_decides_how_it_is_run(follows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[tuple[list[RequestRows], int]] = []
    store = SimpleNamespace(follows_decode=follows, begin=lambda rows, count: announced.append((rows, count)))
    monkeypatch.setattr(runtime, "current", runtime.Runtime(store=store))
    runner = SimpleNamespace(is_draft_worker=False)
    forward = SimpleNamespace(return_logprob=True, capture_hidden_mode=0)
    prefill = batch("EXTEND", [request("a", 1, range(6))], prefix_lens=[0], extend_lens=[6])
    decode = batch("DECODE", [request("a", 1, range(6))], seq_lens_cpu=torch.tensor([7]))
    for one in (prefill, decode):
        assert scheduler._after(forward, None, one, runner) is forward
    assert announced[0] == ([RequestRows(1, "a", 0, 6, True, kind=(True, 0))], 1)
    assert announced[1] == ([RequestRows(1, "a", 6, 7)] if follows else [], 1)


def test_the_proof_fires_when_a_forward_loses_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

    assert "which snapshots" in scheduler._probe()
    left = {name: field for name, field in ForwardBatch.__dataclass_fields__.items() if name != "capture_hidden_mode"}
    monkeypatch.setattr(ForwardBatch, "__dataclass_fields__", left)
    with pytest.raises(BrokenSeamError, match="no field capture_hidden_mode"):
        scheduler._probe()


def test_decode_rows_of_a_mixed_batch_are_no_prefill() -> None:
    reqs = [request("new", 1, range(6)), request("old", 2, range(8), cache_protected_len=8, last_node="node")]
    found = scheduler.rows_of(
        batch("MIXED", reqs, prefix_lens=[0, 8], extend_lens=[6, 1], decoding_reqs=[reqs[1]]), Tree()
    )
    assert found[1] == RequestRows(2, "old", 8, 9)


@pytest.mark.parametrize("what", ["input_embeds", "positional_embed_overrides", "multimodal_inputs"])
def test_requests_that_are_more_than_their_tokens_are_left_out(what: str) -> None:
    reqs = [request("a", 1, range(6), **{what: object()})]
    assert scheduler.rows_of(batch("EXTEND", reqs, prefix_lens=[0], extend_lens=[6]), Tree()) == []
    assert scheduler.rows_of(batch("DECODE", reqs, seq_lens_cpu=torch.tensor([7])), Tree()) == []


def test_an_update_of_weights_without_a_flush_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.managers.scheduler_components.weight_updater import SchedulerWeightUpdaterManager

    forgotten: list[bool] = []
    tree = SimpleNamespace(forget=lambda: forgotten.append(True))
    monkeypatch.setattr(runtime, "current", runtime.Runtime(tree=tree))
    worker = SimpleNamespace(update_weights_from_disk=lambda _: (True, ""))
    updater = SimpleNamespace(
        tp_worker=worker,
        draft_worker=None,
        _observe_weight_load=SchedulerWeightUpdaterManager._observe_weight_load.__get__(
            SimpleNamespace(metrics_collector=None)
        ),
        flush_cache_after_weight_update=lambda _: None,
    )
    SchedulerWeightUpdaterManager.update_weights_from_disk(updater, SimpleNamespace())
    assert forgotten == [True]
