"""`--radix-cache-backend indexcache`: what it builds, what it refuses, and when it is in force."""

from types import SimpleNamespace
from typing import Any

import pytest

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import Settings, SettingsError, Store
from sgl_indexcache.sglang_port import index_store, runtime
from sgl_indexcache.sglang_port.refusals import STORE_REFUSALS, RefusedError
from sgl_indexcache.sglang_port.seams.common import radix
from sgl_indexcache.store import IndexStore, Pool, StoreError

ARGS: dict[str, Any] = {
    "disable_radix_cache": False,
    "radix_cache_backend": None,
    "page_size": 64,
    "disaggregation_mode": "null",
    "enable_lora": None,
    "enable_dp_attention": False,
    "schedule_policy": "fcfs",
}
ON = Store(enabled=True)


def arguments(**flags: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**ARGS, **flags})


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> runtime.Runtime:
    """A process that has no store yet."""
    fresh = runtime.Runtime(settings=Settings(store=ON))
    monkeypatch.setattr(runtime, "current", fresh)
    return fresh


def context(**changed: Any) -> Any:
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams

    params = CacheInitParams(
        disable=changed.get("disable_radix_cache", False),
        req_to_token_pool=None,
        token_to_kv_pool_allocator=None,
        page_size=16,
    )
    known: dict[str, Any] = {
        "params": params,
        "disable_radix_cache": False,
        "effective_chunked_prefill_size": 128,
        "enable_hierarchical_cache": False,
        "is_hybrid_swa": False,
        "is_hybrid_ssm": False,
        "server_args": SimpleNamespace(enable_lmcache=False, enable_flexkv=False),
    }
    return SimpleNamespace(**{**known, **changed})


def test_a_tree_with_records(process: runtime.Runtime) -> None:
    from sglang.srt.mem_cache.radix_cache import RadixCache

    process.store = IndexStore(Pool(1 << 16, 2, 16, 8), [0, 1], 4, 0.1)
    tree = radix.create(context())
    assert isinstance(tree, RadixCache)
    assert tree.store is process.store
    assert process.tree is tree


def test_a_chunk_cache_where_radix_is_off() -> None:
    from sglang.srt.mem_cache.chunk_cache import ChunkCache

    assert isinstance(radix.create(context(disable_radix_cache=True)), ChunkCache)


@pytest.mark.parametrize(
    "changed", [{}, {"enable_hierarchical_cache": True}, {"is_hybrid_swa": True}, {"is_hybrid_ssm": True}], ids=str
)
def test_what_it_cannot_hold_ends_the_process(changed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        radix.create(context(**changed))
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: --radix-cache-backend indexcache")


def test_the_settings_set_sglangs_flags() -> None:
    args = arguments()
    index_store.apply(args, Store(enabled=True, sort_waiting=True), "cpu")
    assert (args.radix_cache_backend, args.schedule_policy) == ("indexcache", "lpm")
    args = arguments()
    index_store.apply(args, Store(), "cpu")
    assert (args.radix_cache_backend, args.schedule_policy) == (None, "fcfs")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"disable_radix_cache": True}, "--disable-radix-cache"),
    ({"radix_cache_backend": "flexkv"}, "--radix-cache-backend"),
    ({"page_size": 128}, "--page-size"),
    ({"disaggregation_mode": "prefill"}, "--disaggregation-mode"),
    ({"enable_lora": True}, "--enable-lora"),
    ({"enable_dp_attention": True}, "--enable-dp-attention"),
]


@pytest.mark.parametrize(("flags", "name"), REFUSED, ids=str)
def test_refused_by_name_with_what_to_do(flags: dict[str, Any], name: str) -> None:
    with pytest.raises(RefusedError, match="is not supported with the index store: ") as caught:
        index_store.apply(arguments(**flags), ON, "cpu")
    assert name in str(caught.value)
    index_store.apply(arguments(**flags), Store(), "cpu")


def test_every_refusal_has_a_case() -> None:
    assert len(REFUSED) == len(STORE_REFUSALS)


def test_on_cuda_there_are_no_margins() -> None:
    args = arguments()
    index_store.apply(args, ON, "cuda")
    assert args.radix_cache_backend == "indexcache"
    asked = Store(enabled=True, margin=0.5)
    with pytest.raises(SettingsError, match=r"store\.margin is 0\.5, but with CUDA .*: leave store\.margin out"):
        index_store.apply(arguments(), asked, "cuda")
    index_store.apply(arguments(), asked, "cpu")
    index_store.apply(arguments(), Store(margin=0.5), "cuda")


def test_a_flag_without_the_setting() -> None:
    with pytest.raises(SettingsError, match=r"store\.enabled is false"):
        index_store.apply(arguments(radix_cache_backend="indexcache"), Store(), "cpu")


def test_two_ways_to_sort_are_one_too_many() -> None:
    with pytest.raises(SettingsError, match="schedule-policy lpm, but it is lof"):
        index_store.apply(arguments(schedule_policy="lof"), Store(sort_waiting=True), "cpu")


def test_a_budget_below_one_snapshot_stops_before_weights_load() -> None:
    config = SimpleNamespace(index_topk=2048)
    with pytest.raises(StoreError, match=r"store\.snapshot_mib to at least 7"):
        index_store.check(arguments(), Store(enabled=True, snapshot_mib=1), "cpu", Pattern("F" * 12), config)
    index_store.check(arguments(), Store(enabled=True, snapshot_mib=7), "cpu", Pattern("F" * 12), config)
