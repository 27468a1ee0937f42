"""From the settings to the index store: SGLang's flags for it, what is refused with it, and its construction."""

import logging
from typing import TYPE_CHECKING, Any

from sgl_indexcache.pattern import Pattern
from sgl_indexcache.settings import SettingsError
from sgl_indexcache.settings import Store as StoreSettings
from sgl_indexcache.sglang_port import refusals
from sgl_indexcache.sglang_port.base import BACKEND_NAME, Device
from sgl_indexcache.store import TOLERANCE_EPS, IndexStore, Pool, SnapshotSlots, WholePrefillStore
from sgl_indexcache.store.pool import check_budget

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

    from sgl_indexcache.attention.snapshots import Snapshots

logger = logging.getLogger(__name__)


def apply(args: Any, settings: StoreSettings, device: Device) -> None:
    """Set SGLang's flags as the settings ask, before SGLang completes its ServerArgs.

    Raises:
        SettingsError: a flag contradicts the settings. RefusedError: the store is not served with these flags.
    """
    if settings.sort_waiting:
        if args.schedule_policy not in ("fcfs", "lpm"):
            raise SettingsError(
                f"store.sort_waiting asks for --schedule-policy lpm, but it is {args.schedule_policy}; keep one"
            )
        args.schedule_policy = "lpm"
    if not settings.enabled:
        if args.radix_cache_backend == BACKEND_NAME:
            raise SettingsError(
                f"--radix-cache-backend {BACKEND_NAME} asks for the index store, but store.enabled is false; "
                "set it to true or drop the flag"
            )
        return
    refusals.check_store(args)
    _check_margin(settings, device)
    args.radix_cache_backend = BACKEND_NAME


def check(args: Any, settings: StoreSettings, device: Device, pattern: Pattern, config: Any) -> None:
    """Refuse what is known to fail once SGLang has completed its ServerArgs, before weights load.

    Raises:
        RefusedError: as `apply`. StoreError: the budget holds no snapshot of this model.
    """
    if settings.enabled:
        refusals.check_store(args)
        _check_margin(settings, device)
        check_budget(settings.snapshot_mib << 20, len(pattern.full_layers), args.page_size, config.index_topk)


def _check_margin(settings: StoreSettings, device: Device) -> None:
    if device == "cuda" and settings.margin is not None:
        raise SettingsError(
            f"store.margin is {settings.margin}, but with CUDA no scores are there to measure margins by and only the "
            "very same prefill is reused: leave store.margin out"
        )


def build(
    model_runner: "ModelRunner", pattern: Pattern, settings: StoreSettings, device: Device
) -> SnapshotSlots | None:
    """The store of this scheduler, in the factory of its attention backend; None when it is off.

    Raises:
        StoreError: the budget holds no snapshot.
    """
    if not settings.enabled:
        return None
    import torch

    window = model_runner.page_size
    topk = model_runner.model_config.hf_text_config.index_topk
    full = pattern.full_layers
    pool = Pool(settings.snapshot_mib << 20, len(full), window, topk, pinned=device == "cuda")
    store: SnapshotSlots
    if device == "cuda":
        store = WholePrefillStore(pool, full)
    else:
        tolerance = settings.margin
        if tolerance is None:
            tolerance = TOLERANCE_EPS * torch.finfo(model_runner.dtype).eps
        store = IndexStore(pool, full, model_runner.req_to_token_pool.req_to_token.shape[0], tolerance)
    logger.info(
        f"index store: {pool.slots} tail snapshots of {window} rows and {len(full)} Full layers in "
        f"{pool.used_bytes / 2**20:.1f} MiB of {'pinned host memory' if device == 'cuda' else 'memory'}"
    )
    return store


def snapshots(store: SnapshotSlots | None, model_runner: "ModelRunner") -> "Snapshots | None":
    """The CUDA backend's way to the store; no graph has been captured yet."""
    if not isinstance(store, WholePrefillStore):
        return None
    from sgl_indexcache.attention.snapshots import Snapshots

    kv: Any = model_runner.token_to_kv_pool
    # One page more than the pool's size: SGLang's own padding page.
    return Snapshots(store, -(-kv.size // kv.page_size) + 1, model_runner.device)
