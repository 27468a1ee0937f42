"""Seam (CPU): the paged allocator and batch preparation without Triton launches.

The two Triton kernels of mem_cache/allocator/paged.py are replaced as whole objects, since they are called
through `kernel[grid](...)`; batch preparation is sent down SGLang's own torch paths.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sgl_indexcache.sglang_port.base import BACKEND_NAME, CPU, BrokenSeamError, Hook, Seam

if TYPE_CHECKING:
    import torch


class _Launched:
    """Base of a function that is called the way a Triton kernel is launched: `kernel[grid](arguments)`."""

    run: Callable[..., None]

    def __class_getitem__(cls, grid: Any) -> Any:
        return cls.run


class AllocExtend(_Launched):
    """Slots for new tokens: the rest of each request's last page, then free pages in order.

    As alloc_extend_kernel of sglang/kernels/ops/memory/allocator.py; all int64 tensors. When there are too
    few free pages the caller notices and drops the result, so the missing slots are left unwritten.
    """

    @staticmethod
    def run(
        prefix_lens: "torch.Tensor",
        seq_lens: "torch.Tensor",
        last_loc: "torch.Tensor",
        free_pages: "torch.Tensor",
        out: "torch.Tensor",
        bs_upper: int,
        page_size: int,
    ) -> None:
        """Write to `out [sum(seq_lens - prefix_lens)]`; the first three are `[requests]`."""
        import torch

        done = used = 0
        in_page = torch.arange(page_size, dtype=torch.int64)
        for before, after, last in zip(prefix_lens.tolist(), seq_lens.tolist(), last_loc.tolist(), strict=True):
            new = after - before
            head = min(new, -before % page_size)
            out[done : done + head] = last + 1 + in_page[:head]
            pages = -(-(new - head) // page_size)
            slots = (free_pages[used : used + pages, None] * page_size + in_page).reshape(-1)[: new - head]
            out[done + head : done + head + slots.numel()] = slots
            used += pages
            done += new


class AllocDecode(_Launched):
    """One slot a request: the next of its last page, or the first of a free page.

    As alloc_decode_kernel of sglang/kernels/ops/memory/allocator.py.
    """

    @staticmethod
    def run(
        seq_lens: "torch.Tensor",
        last_loc: "torch.Tensor",
        free_pages: "torch.Tensor",
        out: "torch.Tensor",
        bs_upper: int,
        page_size: int,
    ) -> None:
        """Write to `out [requests]`; seq_lens count the new token."""
        opens = (seq_lens - 1) % page_size == 0
        nth = (opens.cumsum(0) - 1).clamp(min=0, max=max(0, free_pages.numel() - 1))
        fresh = free_pages[nth] * page_size if free_pages.numel() else last_loc + 1
        out.copy_(opens.logical_not() * (last_loc + 1) + opens * fresh)


def _support_triton(original: Any, backend: str) -> bool:
    return backend != BACKEND_NAME and bool(original(backend))


def _last_loc(original: Any, req_to_token: Any, req_pool_indices_tensor: Any, prefix_lens_tensor: Any) -> Any:
    from sglang.srt.mem_cache.allocation import get_last_loc_torch
    from sglang.srt.runtime_context import get_exec

    if get_exec().kernel.attention_backend != BACKEND_NAME:
        return original(req_to_token, req_pool_indices_tensor, prefix_lens_tensor)
    return get_last_loc_torch(req_to_token, req_pool_indices_tensor, prefix_lens_tensor)


def _probe() -> str:
    import torch
    from sglang.srt.mem_cache.allocator import paged
    from sglang.srt.utils import support_triton

    if paged.alloc_extend_kernel is not AllocExtend or paged.alloc_decode_kernel is not AllocDecode:
        raise BrokenSeamError("the paged allocator launches other kernels")
    out = torch.full((5,), -1)
    lengths = torch.tensor([3]), torch.tensor([8]), torch.tensor([6])
    launched: Any = paged.alloc_extend_kernel
    launched[(1,)](*lengths, torch.tensor([5, 9]), out, 1, 4)
    if out.tolist() != [7, 20, 21, 22, 23]:
        raise BrokenSeamError(f"the allocator gave slots {out.tolist()}")
    if support_triton(BACKEND_NAME):
        raise BrokenSeamError("batch preparation would launch Triton kernels")
    return "slots are allocated and batches prepared in torch"


SEAM = Seam(
    name="cpu-allocator",
    purpose="allocate slots and prepare batches in torch",
    devices=CPU,
    hooks=(
        Hook("sglang.srt.mem_cache.allocator.paged.alloc_extend_kernel", "replace", AllocExtend),
        Hook("sglang.srt.mem_cache.allocator.paged.alloc_decode_kernel", "replace", AllocDecode),
        Hook("sglang.srt.utils.common.support_triton", "around", _support_triton, parameters=("backend",)),
        Hook(
            "sglang.srt.mem_cache.allocation.get_last_loc",
            "around",
            _last_loc,
            parameters=("req_to_token", "req_pool_indices_tensor", "prefix_lens_tensor"),
        ),
    ),
    probe=_probe,
)
