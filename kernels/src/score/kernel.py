"""Triton kernel of the indexer score over page-packed fp8 keys, with the maximum of every block of keys.

A page's 64 keys fill the rows of one `wgmma`, the heads of BQ queries its columns: `[64, D] x [D, BQ * H]`, so ordered
that the rectified, weighted sum over heads stays within a thread (32 heads x 4 queries, 16 x 8) or two lanes (64 x 2).
A block of 16 keys is what one warp holds of a page, so its maximum costs three shuffles.

Rows of a group share every load of a page. They may when they find the same pages in the same places: rows of one
request always, rows of several (decode) where their prefixes are shared. A group that does not is scored row by row.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import PAGE, SCALE_BYTES, jit, jit_with


@jit
def _same_until_its_end(
    page_table, owner, n, active, lead, table_stride, first, last, BQ: tl.constexpr
):  # fmt: skip
    """Whether every active row [BQ] finds in pages first to last, as far as its n keys go, what request `lead` does."""
    wrong = tl.full((BQ, 32), 0, tl.int32)
    if tl.sum((active & (owner != lead)).to(tl.int32), 0) > 0:
        for begin in range(first, last, 32):
            page = begin + tl.arange(0, 32)
            inside = active[:, None] & (page[None, :] < tl.minimum(last, (n + PAGE - 1) // PAGE)[:, None])
            theirs = tl.load(page_table + owner[:, None] * table_stride + page[None, :], mask=inside, other=0)
            leads = tl.load(page_table + lead * table_stride + page, mask=page < last, other=0)
            wrong += (inside & (theirs != leads[None, :])).to(tl.int32)
    return tl.sum(tl.sum(wrong, 1), 0) == 0


@jit
def _score_pages(
    q, w, index_k, table, logits, maxima, row0, rows, lengths, first, last, initial, local,
    logits_stride, maxima_stride,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, BQ: tl.constexpr, BLOCK: tl.constexpr,
    FORCED: tl.constexpr, MAXIMA: tl.constexpr, STAGES: tl.constexpr, REGISTERS: tl.constexpr,
):  # fmt: skip
    """Scores of rows row0 ... row0 + BQ against pages first ... last of one page table row."""
    slot = tl.arange(0, PAGE)
    column = tl.arange(0, D)
    # Every eight columns hold each query of the group, so that a lane's columns belong to one query: the sum over
    # heads leaves no thread.
    each: tl.constexpr = 8 // BQ
    pair = tl.arange(0, BQ * HP)
    row_of = row0 + pair % 8 // each
    head_of = pair // 8 * each + pair % each
    present = (row_of < rows) & (head_of < H)
    queries = tl.load(q + (row_of * H + head_of)[:, None] * D + column[None, :], mask=present[:, None], other=0.0)
    queries = tl.trans(queries)
    gates = tl.reshape(tl.load(w + row_of * H + head_of, mask=present, other=0.0), (1, BQ * HP // 8, BQ, each))
    row = row0 + tl.arange(0, BQ)
    valid = row < rows
    n = tl.load(lengths + row, mask=valid, other=0)
    into = logits + row * logits_stride
    tops = maxima + row * maxima_stride
    page = tl.load(table + first)
    for p in tl.range(first, last, num_stages=STAGES):
        keys = index_k + page.to(tl.int64) * (PAGE * (D + SCALE_BYTES))
        # One page ahead: the address of the next load waits for nothing.
        page = tl.load(table + tl.minimum(p + 1, last - 1))
        if REGISTERS:
            # A cast after the load sends the tile through registers to the tensor cores, not from shared memory.
            tile = tl.load(keys + slot[:, None] * D + column[None, :]).to(tl.float8e4nv, bitcast=True)
        else:
            tile = tl.load(keys.to(tl.pointer_type(tl.float8e4nv)) + slot[:, None] * D + column[None, :])
        scale = tl.load((keys + PAGE * D).to(tl.pointer_type(tl.float32)) + slot)
        products = tl.dot(tile, queries)
        weighed = tl.reshape(tl.maximum(products, 0.0), (PAGE, BQ * HP // 8, BQ, each)) * gates
        total = tl.sum(tl.sum(weighed, 1), 2) * scale[:, None]
        position = (slot + p * PAGE)[:, None]
        if FORCED:
            total = tl.where((position < initial) | (position >= n[None, :] - local), float("inf"), total)
        total = tl.where(position < n[None, :], total, float("-inf"))
        tl.store(into[None, :] + position, total, mask=valid[None, :])
        if MAXIMA:
            block = tl.arange(0, PAGE // BLOCK) + p * (PAGE // BLOCK)
            top = tl.max(tl.reshape(total, (PAGE // BLOCK, BLOCK, BQ)), 1)
            tl.store(tops[None, :] + block[:, None], top, mask=valid[None, :])


@jit_with(
    do_not_specialize=["rows", "table_stride", "maxima_stride", "chunk_pages", "unscored", "initial", "local"],
    do_not_specialize_on_alignment=["page_table", "request", "lengths"],
)
def score_kernel(
    q, w, index_k, page_table, request, lengths, logits, maxima,
    rows, table_stride, logits_stride, maxima_stride, chunk_pages, unscored, initial, local,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, BQ: tl.constexpr, BLOCK: tl.constexpr,
    FORCED: tl.constexpr, MAXIMA: tl.constexpr, STAGES: tl.constexpr, REGISTERS: tl.constexpr,
):  # fmt: skip
    """Program (g, c): rows g * BQ ... against pages c * chunk_pages ...; rows of up to `unscored` keys are left out."""
    row0 = tl.program_id(0).to(tl.int64) * BQ
    row = row0 + tl.arange(0, BQ)
    valid = row < rows
    n = tl.load(lengths + row, mask=valid, other=0)
    n = tl.where(n > unscored, n, 0)
    longest = tl.max(n, 0)
    first = tl.program_id(1) * chunk_pages
    last = tl.minimum(first + chunk_pages, (longest + PAGE - 1) // PAGE)
    if first < last:
        active = n > first * PAGE
        owner = tl.load(request + row, mask=valid, other=0).to(tl.int64)
        lead = tl.max(tl.where(n == longest, owner, 0), 0)
        # A row that ends before `last` reads on in the leader's pages, and what it finds there is masked.
        same = (BQ > 1) & (tl.sum(active.to(tl.int32), 0) > 1)
        if same:
            same = _same_until_its_end(page_table, owner, n, active, lead, table_stride, first, last, BQ)
        if same:
            _score_pages(
                q, w, index_k, page_table + lead * table_stride, logits, maxima, row0, rows, lengths, first, last,
                initial, local, logits_stride, maxima_stride, H, HP, D, BQ, BLOCK, FORCED, MAXIMA, STAGES, REGISTERS,
            )  # fmt: skip
        else:
            for nth in range(BQ):
                one = row0 + nth
                if one < rows:
                    length = tl.load(lengths + one)
                    length = tl.where(length > unscored, length, 0)
                    end = tl.minimum(last, (length + PAGE - 1) // PAGE)
                    if first < end:
                        table = page_table + tl.load(request + one).to(tl.int64) * table_stride
                        _score_pages(
                            q, w, index_k, table, logits, maxima, one, rows, lengths, first, end,
                            initial, local, logits_stride, maxima_stride, H, HP, D, 1, BLOCK, FORCED, MAXIMA,
                            STAGES, REGISTERS,
                        )  # fmt: skip
