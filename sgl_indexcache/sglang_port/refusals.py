"""What the plugin does not serve together with, refused by name before weights load."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.sglang_port.base import BACKEND_NAME, Device


class RefusedError(UserError):
    """A combination of flags that the plugin does not support."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One combination: its name, when it applies, and what to do instead."""

    name: str
    applies: Callable[[Any], bool]
    instead: str


def _split_backends(args: Any) -> bool:
    prefill = args.prefill_attention_backend or args.attention_backend
    decode = args.decode_attention_backend or args.attention_backend
    return bool(prefill != decode)


REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "different attention backends for prefill and decode",
        _split_backends,
        f"use --attention-backend {BACKEND_NAME} alone",
    ),
    Refusal(
        "HiCache (--enable-hierarchical-cache)",
        lambda a: a.enable_hierarchical_cache,
        "drop --enable-hierarchical-cache",
    ),
    Refusal("HiSparse (--enable-hisparse)", lambda a: a.enable_hisparse, "drop --enable-hisparse"),
    Refusal("LMCache (--enable-lmcache)", lambda a: a.enable_lmcache, "drop --enable-lmcache"),
    Refusal(
        "two-batch overlap (--enable-two-batch-overlap)",
        lambda a: a.enable_two_batch_overlap,
        "drop --enable-two-batch-overlap, which loses selections between layers",
    ),
    Refusal(
        "prefill context parallelism (--enable-prefill-cp)",
        lambda a: a.enable_prefill_cp or a.attn_cp_size > 1,
        "drop --enable-prefill-cp and --attn-cp-size",
    ),
    Refusal(
        "decode context parallelism (--dcp-size)",
        lambda a: a.dcp_size > 1,
        "use --dcp-size 1 and more --tp-size",
    ),
    Refusal("pipeline parallelism (--pp-size)", lambda a: a.pp_size > 1, "use --pp-size 1 and more --tp-size"),
    Refusal(
        "speculative decoding (EAGLE, MTP)",
        lambda a: a.speculative_algorithm is not None,
        "drop --speculative-algorithm",
    ),
    Refusal(
        "streaming sessions (--enable-streaming-session)",
        lambda a: a.enable_streaming_session,
        "drop --enable-streaming-session",
    ),
    Refusal(
        "session radix cache (--enable-session-radix-cache)",
        lambda a: a.enable_session_radix_cache,
        "drop --enable-session-radix-cache",
    ),
    Refusal(
        "the trtllm DSA kernels (Blackwell's default for fp8 KV)",
        lambda a: "trtllm" in (a.dsa_prefill_backend, a.dsa_decode_backend),
        "choose others with --dsa-prefill-backend and --dsa-decode-backend, or --kv-cache-dtype bfloat16",
    ),
    Refusal(
        "returning selections (--enable-return-indexer-topk) with fp8 KV",
        lambda a: a.enable_return_indexer_topk and "fp8" in a.kv_cache_dtype,
        "use --kv-cache-dtype bfloat16",
    ),
    Refusal(
        # SGLang sends such a forward to a kernel of bf16 (dsa_backend.py, get_topk_transform_method).
        "mixed chunks (--enable-mixed-chunk) with fp8 KV and the sparse prefill kernels",
        lambda a: a.enable_mixed_chunk and "fp8" in a.kv_cache_dtype and "sparse" in (a.dsa_prefill_backend or ""),
        "use --dsa-prefill-backend flashmla_kv, or drop --enable-mixed-chunk",
    ),
    Refusal(
        "--enable-torch-compile",
        lambda a: a.enable_torch_compile,
        "drop --enable-torch-compile, which bypasses the indexer's own kernels",
    ),
)


STORE_REFUSALS: tuple[Refusal, ...] = (
    Refusal(
        "a disabled radix cache (--disable-radix-cache)",
        lambda a: a.disable_radix_cache,
        "drop --disable-radix-cache, or set store.enabled: false",
    ),
    Refusal(
        "another radix cache (--radix-cache-backend)",
        lambda a: a.radix_cache_backend not in (None, BACKEND_NAME),
        f"use --radix-cache-backend {BACKEND_NAME}, or set store.enabled: false",
    ),
    Refusal(
        "pages of more than 64 tokens (--page-size)",
        lambda a: (a.page_size or 0) > 64,
        "use --page-size 64 or less",
    ),
    Refusal(
        "prefill-decode disaggregation (--disaggregation-mode)",
        lambda a: a.disaggregation_mode not in (None, "null"),
        "set store.enabled: false there, since no snapshot is sent along",
    ),
    Refusal(
        "data-parallel attention (--enable-dp-attention)",
        lambda a: a.enable_dp_attention,
        "drop --enable-dp-attention, under which other ranks' tokens change a forward, or set store.enabled: false",
    ),
    Refusal("LoRA (--enable-lora)", lambda a: bool(a.enable_lora), "drop --enable-lora, or set store.enabled: false"),
)


def check_store(args: Any) -> None:
    """Raise RefusedError for the first combination in SGLang's ServerArgs that the index store does not support."""
    for refusal in STORE_REFUSALS:
        if refusal.applies(args):
            raise RefusedError(f"{refusal.name} is not supported with the index store: {refusal.instead}")


def check(args: Any, device: Device) -> None:
    """Raise RefusedError for the first unsupported combination in SGLang's ServerArgs."""
    for refusal in REFUSALS:
        if refusal.applies(args):
            raise RefusedError(f"{refusal.name} is not supported with {BACKEND_NAME}: {refusal.instead}")
    if device == "cpu" and _cuda():
        raise RefusedError(
            "SGLANG_USE_CPU_ENGINE on a machine with an NVIDIA GPU is not supported: unset it, or hide the GPU with "
            "CUDA_VISIBLE_DEVICES= and install a CPU build of torch"
        )
    if args.device not in (None, device) or _foreign_accelerator():
        name = args.device or "another accelerator"
        raise RefusedError(
            f"device {name} is not supported with {BACKEND_NAME} here: use an NVIDIA GPU, or --device cpu with "
            "SGLANG_USE_CPU_ENGINE=1 (set by sgl-indexcache serve)"
        )


def _cuda() -> bool:
    from sglang.srt.utils import is_cuda

    return bool(is_cuda())


def _foreign_accelerator() -> bool:
    from sglang.srt.utils import is_hip, is_hpu, is_musa, is_npu, is_xpu

    return bool(is_hip() or is_npu() or is_xpu() or is_hpu() or is_musa())
