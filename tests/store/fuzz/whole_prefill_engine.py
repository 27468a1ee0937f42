"""The CPU engine with the store of the CUDA backend: the same scheduler, tree, store and snapshots, without a GPU.

`install` is called at the top of a program whose engine processes are spawned, and takes effect in the scheduler.
"""

from typing import Any


def install() -> None:
    """From now on the backend's factory builds the store that serves the very same prefill alone."""
    from sgl_indexcache.sglang_port import index_store

    index_store.build = build


def build(model_runner: Any, pattern: Any, settings: Any, device: str) -> Any:
    """Stands for index_store.build, and changes the CPU backend to go by snapshots as the CUDA seam does."""
    if not settings.enabled:
        return None
    import torch

    from sgl_indexcache.attention.cpu import IndexCacheCpuBackend
    from sgl_indexcache.attention.snapshots import Snapshots
    from sgl_indexcache.indexer.cpu.project import project_key
    from sgl_indexcache.selection import Terms
    from sgl_indexcache.store import Pool, WholePrefillStore

    topk, full = model_runner.model_config.hf_text_config.index_topk, pattern.full_layers
    store = WholePrefillStore(Pool(settings.snapshot_mib << 20, len(full), model_runner.page_size, topk), full)
    snapshots = Snapshots(store, 1, "cpu")
    terms = Terms("positions", torch.zeros(1, 1, dtype=torch.int32))
    prepare, select = IndexCacheCpuBackend.init_forward_metadata, IndexCacheCpuBackend.select

    def init_forward_metadata(self: Any, forward_batch: Any) -> None:
        self.store = None
        prepare(self, forward_batch)
        snapshots.clear()
        if forward_batch.forward_mode.is_extend():
            snapshots.prepare(forward_batch.seq_lens.tolist(), forward_batch.extend_seq_lens_cpu)

    def select_rows(
        self: Any,
        indexer: Any,
        x: torch.Tensor,
        q_lora: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: Any,
        layer_id: int,
        return_indices: bool,
    ) -> torch.Tensor | None:
        if snapshots.reads:
            self.pool.set_index_k(layer_id, forward_batch.out_cache_loc, project_key(indexer, x, positions))
            self.work.reused(len(x), self.keys_seen)
            return snapshots.read(layer_id, terms, torch.empty(len(x), topk, dtype=torch.int32))
        found = select(self, indexer, x, q_lora, positions, forward_batch, layer_id, return_indices)
        if snapshots.writes and found is not None:
            snapshots.write(layer_id, terms, found)
        return found

    IndexCacheCpuBackend.init_forward_metadata = init_forward_metadata  # type: ignore[method-assign]
    IndexCacheCpuBackend.select = select_rows  # type: ignore[method-assign]
    return store
