"""On a GPU: after the warm-up no prefill compiles a kernel of two-level scoring."""

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton import knobs

from sgl_indexcache.indexer.cuda.two_level import CudaKernels
from sgl_indexcache.indexer.cuda.warm_up import warm_up
from sgl_indexcache.indexer.guard import Guard
from sgl_indexcache.indexer.shortlist import Shortlist
from sgl_indexcache.indexer.two_level import TwoLevel
from sgl_indexcache.kernels.layout import pack
from sgl_indexcache.kernels.score.kernel import score_kernel
from sgl_indexcache.kernels.select.kernel import select_kernel
from sgl_indexcache.kernels.shortlist.kernel import summarise_kernel
from sgl_indexcache.selection import Form, Inputs, TensorQueries, Terms
from sgl_indexcache.store.page_records import PageRecords

HEADS, DIM, TOPK, PAGE, CONTEXT, POOL = 32, 128, 2048, 64, 40_000, 1500
INDEXER = SimpleNamespace(num_init_tokens=0, num_local_tokens=0)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Kernels that have been compiled, or fetched from disk, since the start of the test."""
    for kernel in (score_kernel, select_kernel, summarise_kernel):
        kernel.device_caches.clear()
    found: list[str] = []

    def note(**event: Any) -> None:
        found.append(event["repr"])

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, note
    yield found
    knobs.runtime.jit_cache_hook = before


@pytest.mark.parametrize("size", [8128, 0.25])
def test_prefills_compile_nothing(compiled: list[str], size: int | float) -> None:
    random.seed(0)
    records = PageRecords([0, 4], POOL, DIM, "cuda")
    two_level = TwoLevel(records, CudaKernels(64 << 20), Shortlist(size), Guard(0.9, 64), TOPK)
    keys = torch.randn(POOL, PAGE, DIM, device="cuda").to(torch.float8_e4m3fn)
    index_k = pack(keys, torch.ones(POOL, PAGE, device="cuda"))
    assert warm_up(two_level, INDEXER, HEADS, index_k, CONTEXT) > 0
    assert any("select_kernel" in kernel for kernel in compiled)
    assert any("score_kernel" in kernel for kernel in compiled)
    compiled.clear()
    listed = 0
    for forward in range(30):
        requests = random.choice((1, 2))
        # The first may lie within one selection, beside one that has a shortlist.
        lengths = [random.randrange(3, TOPK), random.randrange(TOPK + 2, CONTEXT // 2)][-requests:]
        new = [min(length - 1, random.choice((2, 7, 100, 3000))) for length in lengths]
        pages = -(-max(lengths) // PAGE)
        table = (torch.randperm(POOL - 1)[: requests * pages] + 1).int().view(requests, pages).cuda()
        rows = sum(new)
        queries = torch.randn(rows, HEADS, DIM, device="cuda").to(torch.float8_e4m3fn)
        inputs = Inputs(
            queries=TensorQueries(queries, torch.rand(rows, HEADS, device="cuda")),
            index_k=index_k,
            page_table=table,
            request=torch.arange(requests).repeat_interleave(torch.tensor(new)).int().cuda(),
            lengths=torch.cat([torch.arange(a - b + 1, a + 1) for a, b in zip(lengths, new, strict=True)]).int().cuda(),
        )
        two_level.begin(lengths, new, table, is_request=True)
        if two_level.shortlists(4):
            listed += 1
            out = torch.empty(rows, TOPK, dtype=torch.int32, device="cuda")
            form: Form = "offsets" if forward % 2 else "slots"
            two_level.select(4, inputs, Terms(form, table, torch.zeros_like(inputs.lengths)), out)
    assert listed > 5
    assert compiled == []
