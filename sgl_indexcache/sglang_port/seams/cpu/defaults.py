"""Seam (CPU): keep the page size and the KV dtype that the user asked for.

SGLang forces pages of 64 (arg_groups/overrides.py:629) and bf16 or fp8 KV (:1507) on every DSA model, because
its CUDA kernels need them. The CPU pool holds any page size in the model's dtype.
"""

from typing import Any

from sgl_indexcache.sglang_port.base import BACKEND_NAME, CPU, Hook, Seam


def _keep_page_size(result: Any, architecture: str, server_args: Any, hf_config: Any) -> Any:
    if server_args.attention_backend == BACKEND_NAME and server_args.page_size is not None:
        for _, declared in result:
            declared.pop("page_size", None)
    return result


def _kv_dtype(original: Any, view: Any) -> Any:
    if view.attention_backend == BACKEND_NAME and view.kv_cache_dtype == "auto":
        return {}
    return original(view)


SEAM = Seam(
    name="cpu-defaults",
    purpose="keep the user's page size and the model's KV dtype",
    devices=CPU,
    hooks=(
        Hook(
            "sglang.srt.arg_groups.overrides.collect_model_override_declarations",
            "after",
            _keep_page_size,
            parameters=("architecture", "server_args", "hf_config"),
        ),
        Hook(
            "sglang.srt.arg_groups.overrides._dsa_kv_cache_dtype_default",
            "around",
            _kv_dtype,
            parameters=("view",),
        ),
    ),
)
