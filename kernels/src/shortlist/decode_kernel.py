"""Triton kernels of two-level scoring in a decode step: rows of several requests, whose contexts only the device knows.

Nothing here depends on lengths but masks, so a captured graph replays it for any batch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import PAGE, SCALE_BYTES, jit, jit_with
from sgl_indexcache.kernels.shortlist.guard_kernel import add_sample, below, is_sampled, latest_recall
from sgl_indexcache.kernels.shortlist.kernel import summary_of


@jit
def complete_pages(length):
    """Pages before a row's own; a row of padding may have no keys at all."""
    return tl.maximum(length - 1, 0) // PAGE


@jit_with(do_not_specialize=["table_stride"])
def summarise_rows_kernel(
    index_k, page_table, lengths, summaries, has_summary, table_stride, D: tl.constexpr, AT_ONCE: tl.constexpr
):
    """Program (t, c): of row t's complete pages those from c * AT_ONCE on that have no summary get one.

    Rows that share a prefix may make the same summary at the same time, of the same bytes.
    """
    row = tl.program_id(0).to(tl.int64)
    complete = complete_pages(tl.load(lengths + row))
    first = tl.program_id(1) * AT_ONCE
    if first < complete:
        nth = first + tl.arange(0, AT_ONCE)
        table = page_table + row * table_stride
        pages = tl.load(table + nth, mask=nth < complete, other=0).to(tl.int64)
        missing = (nth < complete) & (tl.load(has_summary + pages) == 0)
        left = tl.sum(missing.to(tl.int32), 0)
        while left > 0:
            at = tl.min(tl.where(missing, nth, first + AT_ONCE), 0)
            page = tl.load(table + at).to(tl.int64)
            key, scale = summary_of(index_k, page, D)
            record = summaries + page * (D + SCALE_BYTES)
            tl.store(record + tl.arange(0, D), key)
            tl.store((record + D).to(tl.pointer_type(tl.float32)), scale)
            tl.store(has_summary + page, 1)
            missing = missing & (nth != at)
            left -= 1


@jit_with(do_not_specialize=["table_stride", "maxima_stride", "window"])
def score_pages_kernel(
    q, w, summaries, page_table, lengths, out, maxima, complete_out, table_stride, out_stride, maxima_stride, window,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (t, c): row t against the summaries of its pages c * 64 ..., and the maxima of every BLOCK scores."""
    row = tl.program_id(0).to(tl.int64)
    complete = complete_pages(tl.load(lengths + row))
    if tl.program_id(1) == 0:
        tl.store(complete_out + row, complete)
    first = tl.program_id(1) * PAGE
    if first < complete:
        nth = first + tl.arange(0, PAGE)
        pages = tl.load(page_table + row * table_stride + nth, mask=nth < complete, other=0).to(tl.int64)
        record = summaries + pages * (D + SCALE_BYTES)
        column = tl.arange(0, D)
        keys = tl.load(record[:, None] + column[None, :]).to(tl.float8e4nv, bitcast=True)
        scale = tl.load((record + D).to(tl.pointer_type(tl.float32)))
        head = tl.arange(0, HP)
        queries = tl.load(q + (row * H + head)[:, None] * D + column[None, :], mask=(head < H)[:, None], other=0.0)
        gates = tl.load(w + row * H + head, mask=head < H, other=0.0)
        products = tl.dot(keys, tl.trans(queries))
        total = tl.sum(tl.maximum(products, 0.0) * gates[None, :], 1) * scale
        total = tl.where((nth == 0) | (nth >= complete - window), float("inf"), total)
        total = tl.where(nth < complete, total, float("-inf"))
        tl.store(out + row * out_stride + nth, total)
        block = tl.program_id(1) * (PAGE // BLOCK) + tl.arange(0, PAGE // BLOCK)
        tl.store(maxima + row * maxima_stride + block, tl.max(tl.reshape(total, (PAGE // BLOCK, BLOCK)), 1))


@jit_with(do_not_specialize=["n", "table_stride", "listed_stride", "every", "need", "floor"])
def lay_lists_kernel(
    listed, page_table, lengths, guard, pages, visible, judged, fallen, n, table_stride, listed_stride,
    every, need, floor, LP: tl.constexpr, AT_ONCE: tl.constexpr, JUDGED: tl.constexpr,
):  # fmt: skip
    """Program t: row t's own page after the pages it lists, all of them as KV pages, and how many keys that makes;
    then what the guard says of its context: `fallen`, and the keys to score exactly, none but for these and samples.
    """
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + row)
    complete = complete_pages(length)
    m = tl.minimum(n, complete)
    table = page_table + row * table_stride
    column = tl.arange(0, LP)
    own = tl.load(listed + row * listed_stride + column, mask=column < m, other=0)
    own = tl.where(column == m, complete, own)
    # Behind its list a row reads on in its own page, which is masked.
    own = tl.where(column > m, complete, own)
    tl.store(pages + row * listed_stride + column, tl.load(table + own), mask=column <= n)
    tl.store(listed + row * listed_stride + column, own, mask=column <= n)
    tl.store(visible + row, m * PAGE + length - complete * PAGE)

    expected, held = latest_recall(guard, table, complete, need, AT_ONCE, JUDGED)
    trips = (complete > n) & below(expected, held, need, floor)
    sampled = (complete > n) & is_sampled(length - 1, every)
    tl.store(fallen + row, trips.to(tl.int32))
    tl.store(judged + row, tl.where(trips | sampled, length, 0))


@jit_with(do_not_specialize=["n", "k", "table_stride", "listed_stride", "out_stride", "every", "named"])
def settle_kernel(
    exact, listed, page_table, judged, fallen, guard, counts, out, n, k, table_stride, listed_stride,
    out_stride, every, named, KP: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Program t: if row t was scored exactly, the count of its selection that its list holds, and that selection in
    place of the listed one if its context has fallen back. Counts: see reference.select_decoded."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(judged + row)
    if length > 0:
        column = tl.arange(0, KP)
        position = tl.load(exact + row * k + column, mask=column < k, other=-1)
        page = position // PAGE
        table = page_table + row * table_stride
        if is_sampled(length - 1, every):
            lists = listed + row * listed_stride
            add_sample(position, lists, n, k, length, table, guard, counts, True, KP, STEPS)
        if tl.load(fallen + row) != 0:
            if named != 0:
                slot = tl.load(table + page, mask=position >= 0, other=0) * PAGE + position % PAGE
                position = tl.where(position < 0, -1, slot)
            tl.store(out + row * out_stride + column, position, mask=column < k)
            tl.atomic_add(counts + 2, 1)
            tl.atomic_add(counts + 3, length.to(tl.int64))
