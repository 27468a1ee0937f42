"""The switching seam against a scheduler of plain objects: what it sets, and that a refusal changes nothing."""

from types import SimpleNamespace
from typing import Any

import pytest

from sgl_indexcache.pattern import Pattern, wire
from sgl_indexcache.sglang_port import runtime
from sgl_indexcache.sglang_port.seams.common import switch
from sgl_indexcache.store import IndexStore, Pool
from sgl_indexcache.store.pool import slot_bytes

NEW = Pattern("FSSFSS")


class Scheduler:
    """As much of SGLang's as a switch touches."""

    def __init__(self, idle: bool = True, flushes_cache: bool = True, **runners: Any) -> None:
        attention = [SimpleNamespace(skip_topk=False, next_skip_topk=False) for _ in range(6)]
        layers = [SimpleNamespace(self_attn=one) for one in attention]
        model = SimpleNamespace(model=SimpleNamespace(layers=layers))
        graphs = {"decode_cuda_graph_runner": None, "prefill_cuda_graph_runner": None, **runners}
        self.tp_worker = SimpleNamespace(model_runner=SimpleNamespace(model=model, **graphs))
        self.idle, self.flushes_cache, self.flushes, self.attention = idle, flushes_cache, 0, attention

    def is_fully_idle(self) -> bool:
        return self.idle

    def flush_cache(self, empty_cache: bool = True) -> bool:
        self.flushes += self.flushes_cache
        return self.flushes_cache

    def flags(self) -> list[tuple[bool, bool]]:
        return [(one.skip_topk, one.next_skip_topk) for one in self.attention]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    made: Any = SimpleNamespace(configured=[])
    made.configure = made.configured.append
    monkeypatch.setattr(runtime, "current", runtime.Runtime(pattern=Pattern("FFFFFF"), backend=made))
    return made


def ask(scheduler: Scheduler, payload: dict[str, float]) -> bool:
    def original(*_: Any) -> Any:
        raise AssertionError("SGLang's own handler was called")

    return bool(switch._around(original, scheduler, SimpleNamespace(server_args=payload)).updated)


def test_a_switch_sets_flags_backend_and_state_and_empties_the_tree(backend: Any) -> None:
    scheduler = Scheduler()
    assert ask(scheduler, wire.encode(NEW))
    skip = [letter == "S" for letter in str(NEW)]
    assert scheduler.flags() == list(zip(skip, [*skip[1:], False], strict=True))
    assert backend.configured == [NEW]
    assert runtime.current.pattern == NEW
    assert scheduler.flushes == 1


@pytest.mark.parametrize(
    ("scheduler", "payload", "reason"),
    [
        (Scheduler(idle=False), wire.encode(NEW), "idle"),
        (Scheduler(decode_cuda_graph_runner=object()), wire.encode(NEW), "decode graphs are captured"),
        (Scheduler(prefill_cuda_graph_runner=object()), wire.encode(NEW), "prefill graphs are captured"),
        (Scheduler(flushes_cache=False), wire.encode(NEW), "could not be emptied"),
        (Scheduler(), wire.encode(Pattern("FSSFSSF")), "7 letters but the model has 6"),
        (Scheduler(), {**wire.encode(NEW), "indexcache_full_0": 2}, "layer 0"),
    ],
    ids=["busy", "decode-graph", "prefill-graph", "tree", "layers", "first-layer"],
)
def test_a_refusal_changes_nothing(
    backend: Any,
    scheduler: Scheduler,
    payload: dict[str, float],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = scheduler.flags()
    assert not ask(scheduler, payload)
    assert reason in caplog.text
    assert scheduler.flags() == before
    assert backend.configured == []
    assert runtime.current.pattern == Pattern("FFFFFF")
    assert scheduler.flushes == 0


def test_a_switch_goes_to_the_store_which_must_have_room(backend: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(3 * slot_bytes(1, 4, 8), layers=2, window=4, topk=8)
    runtime.current.store = store = IndexStore(pool, [0, 3], requests=2, tolerance=1.0)
    assert not ask(Scheduler(), wire.encode(Pattern("FFFFFS")))
    assert "too small" in caplog.text
    assert backend.configured == []
    assert pool.layers == 2
    assert ask(Scheduler(), wire.encode(Pattern("FSSSSS")))
    assert (pool.layers, pool.slots) == (1, 3)
    store.begin([])
    assert store.known_rows(0) is None


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(runtime, "current", runtime.Runtime())
    assert not ask(Scheduler(), wire.encode(NEW))
    assert "not indexcache" in caplog.text


def test_other_payloads_go_to_sglang(backend: Any) -> None:
    request = SimpleNamespace(server_args={"pp_max_micro_batch_size": 8})
    assert switch._around(lambda _, asked: asked, Scheduler(), request) is request
