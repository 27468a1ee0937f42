"""Triton kernel of page summaries: those that are missing are made, all of them are laid side by side."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import FP8_MAX, PAGE, SCALE_BYTES, jit, jit_with

TINY = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal float32: a page of zeros has a scale, too."""


@jit
def summary_of(index_k, page, D: tl.constexpr):
    """A KV page's summary: bytes uint8 [D] of the fp8 key, and its scale."""
    slot = tl.arange(0, PAGE)
    column = tl.arange(0, D)
    keys = index_k + page * (PAGE * (D + SCALE_BYTES))
    raw = tl.load(keys + slot[:, None] * D + column[None, :]).to(tl.float8e4nv, bitcast=True)
    scales = tl.load((keys + PAGE * D).to(tl.pointer_type(tl.float32)) + slot)
    mean = tl.sum(raw.to(tl.float32) * scales[:, None], 0) / PAGE
    scale = tl.maximum(tl.max(tl.abs(mean), 0) / FP8_MAX, TINY)
    return (mean / scale).to(tl.float8e4nv).to(tl.uint8, bitcast=True), scale


@jit_with(do_not_specialize_on_alignment=["page_table", "summaries", "has_summary"])
def summarise_kernel(index_k, page_table, summaries, has_summary, packed, D: tl.constexpr):
    """Program p: page p of one request; packed takes 64 summaries to a page, as index_k does keys."""
    nth = tl.program_id(0)
    page = tl.load(page_table + nth).to(tl.int64)
    column = tl.arange(0, D)
    record = summaries + page * (D + SCALE_BYTES)
    into = packed + (nth // PAGE).to(tl.int64) * (PAGE * (D + SCALE_BYTES))
    if tl.load(has_summary + page) == 0:
        key, scale = summary_of(index_k, page, D)
        tl.store(record + column, key)
        tl.store((record + D).to(tl.pointer_type(tl.float32)), scale)
        tl.store(has_summary + page, 1)
        tl.store(into + nth % PAGE * D + column, key)
        tl.store((into + PAGE * D).to(tl.pointer_type(tl.float32)) + nth % PAGE, scale)
    else:
        tl.store(into + nth % PAGE * D + column, tl.load(record + column))
        scale = tl.load((record + D).to(tl.pointer_type(tl.float32)))
        tl.store((into + PAGE * D).to(tl.pointer_type(tl.float32)) + nth % PAGE, scale)
