"""Seam (CPU): the KV pool with index keys per token in the model's dtype.

SGLang's DSATokenToKVPool (mem_cache/memory_pool.py:4322) packs fp8 keys and scales by pages of 64 for its CUDA
kernels and refuses any other geometry.
"""

from sgl_indexcache.sglang_port.base import CPU, BrokenSeamError, Hook, Seam

_TARGET = "sglang.srt.mem_cache.memory_pool.DSATokenToKVPool"


def _pool_class() -> type:
    import torch
    from sglang.srt.mem_cache.memory_pool import DSATokenToKVPool, MLATokenToKVPool

    class CpuDsaTokenToKVPool(DSATokenToKVPool):  # type: ignore[misc, unused-ignore]
        """Latent KV as SGLang keeps it, plus index keys `[slots, index_head_dim]` a layer."""

        def __init__(
            self,
            size: int,
            page_size: int,
            kv_lora_rank: int,
            dtype: torch.dtype,
            qk_rope_head_dim: int,
            layer_num: int,
            device: str,
            index_head_dim: int,
            enable_memory_saver: bool,
            kv_cache_dim: int,
            start_layer: int | None = None,
            end_layer: int | None = None,
            index_buf_size: int | None = None,
        ) -> None:
            MLATokenToKVPool.__init__(
                self,
                size,
                page_size,
                dtype,
                kv_lora_rank,
                qk_rope_head_dim,
                layer_num,
                device,
                enable_memory_saver,
                start_layer,
                end_layer,
                use_dsa=True,
            )
            self.index_head_dim = index_head_dim
            self.index_buf_size = index_buf_size or size
            self._create_index_buffers()
            self._finalize_allocation_log(size)

        def _create_index_buffers(self) -> None:
            slots = self.index_buf_size + self.page_size
            self.index_k_with_scale_buffer = [
                torch.zeros(slots, self.index_head_dim, dtype=self.dtype, device=self.device)
                for _ in range(self.layer_num)
            ]

        def set_index_k(self, layer_id: int, slots: torch.Tensor, keys: torch.Tensor) -> None:
            """Write index keys `[T, D]` of a layer to `slots [T]`."""
            self.index_k(layer_id)[slots] = keys.to(self.dtype)

        def index_k(self, layer_id: int) -> torch.Tensor:
            """The index keys `[slots, D]` of a layer, in place."""
            keys: torch.Tensor = self.index_k_with_scale_buffer[layer_id - self.start_layer]
            return keys

    return CpuDsaTokenToKVPool


def _register() -> None:
    # A class hook must exist when it is registered; its base class lives in SGLang.
    global _installed
    if _installed is None:
        _installed = _pool_class()
    Hook(_TARGET, "replace", _installed).register()


def _probe() -> str:
    if _installed is None:
        raise BrokenSeamError("the pool class was never built")
    Hook(_TARGET, "replace", _installed).prove()
    from sglang.srt.mem_cache import kv_cache_configurator

    if kv_cache_configurator.DSATokenToKVPool is not _installed:
        raise BrokenSeamError("kv_cache_configurator builds another pool")
    return "index keys are kept per token in the model's dtype"


_installed: type | None = None

SEAM = Seam(
    name="cpu-pool",
    purpose="keep index keys per token in the model's dtype",
    devices=CPU,
    register=_register,
    probe=_probe,
)
