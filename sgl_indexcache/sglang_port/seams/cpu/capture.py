"""Seam (CPU): --enable-return-indexer-topk, which SGLang guards to CUDA (state_capturer/indexer_topk.py:96).

Returns the selections of every layer with a request: the oracle tests compare them layer by layer.
"""

from typing import Any

from sgl_indexcache.sglang_port.base import CPU, Hook, Seam


def _create(original: Any, *, model_config: Any, num_tokens: int, max_running_requests: int, device: str) -> Any:
    from sglang.srt.configs.model_config import get_num_indexer_layers
    from sglang.srt.runtime_context import get_exec
    from sglang.srt.state_capturer.indexer_topk import _create_indexer_capturer_raw

    config = model_config.hf_text_config
    return _create_indexer_capturer_raw(
        enable=get_exec().features.enable_return_indexer_topk,
        num_indexer_layers=get_num_indexer_layers(config),
        index_topk=getattr(config, "index_topk", 0),
        num_tokens=num_tokens,
        max_running_requests=max_running_requests,
        device=device,
    )


def _host_cache(original: Any, self: Any, num_tokens: int, num_layers: int, topk_size: int, name: str) -> None:
    """As BaseHostCache.__init__, in pageable memory: there is no driver to pin it."""
    import torch

    self.buffer = torch.zeros(num_tokens, num_layers, topk_size, dtype=torch.int32)
    self.num_tokens, self.num_layers, self.topk_size, self.name = num_tokens, num_layers, topk_size, name


def _own_copy(result: Any, *args: Any, **kwargs: Any) -> Any:
    """A copy "to the host" is a view on the CPU, and the next forward overwrites it under overlap scheduling."""
    return result.clone()


SEAM = Seam(
    name="cpu-capture",
    purpose="return selections with --enable-return-indexer-topk",
    devices=CPU,
    hooks=(
        Hook(
            "sglang.srt.state_capturer.indexer_topk.create_indexer_capturer",
            "around",
            _create,
            parameters=("model_config", "num_tokens", "max_running_requests", "device"),
        ),
        Hook(
            "sglang.srt.state_capturer.base.BaseHostCache.__init__",
            "around",
            _host_cache,
            parameters=("self", "num_tokens", "num_layers", "topk_size", "name"),
        ),
        Hook(
            "sglang.srt.state_capturer.base.BaseTopkCapturer._get_local_slice",
            "after",
            _own_copy,
            parameters=("self", "forward_batch"),
        ),
    ),
)
