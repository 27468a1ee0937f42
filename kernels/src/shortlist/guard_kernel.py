"""Triton kernels of the recall guard: what lists hold of exact selections, and what that says of a context."""

# mypy: allow-untyped-defs, allow-incomplete-defs
import triton.language as tl

from sgl_indexcache.kernels.jit import PAGE, jit, jit_with
from sgl_indexcache.kernels.shortlist import records

HASH = tl.constexpr(records.HASH)


@jit
def is_sampled(position, every):
    """records.is_sampled."""
    return (position.to(tl.int64) * HASH & 0xFFFFFFFF) < (1 << 32) // every.to(tl.int64)


@jit
def latest_recall(guard, table, complete, need, AT_ONCE: tl.constexpr, JUDGED: tl.constexpr):
    """Positions that the latest samples before page `complete` should have found, and have found: page by page, until
    they are `need`, in JUDGED pages at most. guard: of one layer."""
    expected = 0
    held = 0
    for begin in range(0, JUDGED, AT_ONCE):
        nth = complete - 1 - begin - tl.arange(0, AT_ONCE)
        if begin < complete:
            page = tl.load(table + nth, mask=nth >= 0, other=0).to(tl.int64)
            should = tl.load(guard + 2 * page, mask=nth >= 0, other=0)
            did = tl.load(guard + 2 * page + 1, mask=nth >= 0, other=0)
            # Up to the page that makes them enough.
            latest = tl.cumsum(should, 0) - should + expected < need
            expected += tl.sum(tl.where(latest, should, 0), 0)
            held += tl.sum(tl.where(latest, did, 0), 0)
    return expected, held


@jit
def below(expected, held, need, floor):
    """Whether samples that make up enough positions hold less of them than the floor."""
    return (expected >= need) & (held.to(tl.float32) < floor * expected.to(tl.float32))


@jit
def add_sample(
    position, listed, n, k, length, table, guard, counts, counted, KP: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    """A sample of `length` keys should have found `position` int32 [KP], -1 for none: how many of them lie in the n + 1
    ascending pages `listed` goes to its own page's records and, if `counted`, to `counts`."""
    page = position // PAGE
    # How many of the listed pages lie before each.
    before = tl.zeros((KP,), tl.int32)
    step = 1 << (STEPS - 1)
    for _ in range(STEPS):
        probe = before + step - 1
        probed = tl.load(listed + probe, mask=probe <= n, other=1 << 30)
        before = tl.where(probed < page, before + step, before)
        step = step // 2
    nearest = tl.load(listed + before, mask=before <= n, other=-1)
    held = tl.sum(((tl.arange(0, KP) < k) & (position >= 0) & (nearest == page)).to(tl.int32), 0)
    own = tl.load(table + (length - 1) // PAGE).to(tl.int64)
    tl.atomic_add(guard + 2 * own, k)
    tl.atomic_add(guard + 2 * own + 1, held)
    if counted:
        tl.atomic_add(counts, 1)
        tl.atomic_add(counts + 1, held.to(tl.int64))


@jit_with(
    do_not_specialize=["n", "k", "listed_stride", "counted"],
    do_not_specialize_on_alignment=["group", "page_table", "lengths", "guard", "counts"],
)
def judge_kernel(
    exact, listed, group, page_table, lengths, guard, counts, n, k, listed_stride, counted,
    KP: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Program s: sample s of one request's prefill; see reference.judge."""
    sample = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, KP)
    position = tl.load(exact + sample * k + column, mask=column < k, other=-1)
    lists = listed + tl.load(group + sample).to(tl.int64) * listed_stride
    add_sample(position, lists, n, k, tl.load(lengths + sample), page_table, guard, counts, counted != 0, KP, STEPS)


@jit_with(
    do_not_specialize=["guard_stride", "table_stride", "out_stride", "need", "floor"],
    do_not_specialize_on_alignment=["page_table", "requests", "complete"],
)
def verdicts_kernel(
    guard, page_table, requests, complete, out, guard_stride, table_stride, out_stride, need, floor,
    AT_ONCE: tl.constexpr, JUDGED: tl.constexpr,
):  # fmt: skip
    """Program (l, r): whether context r is to be scored exactly in layer l; see reference.verdicts."""
    layer, nth = tl.program_id(0).to(tl.int64), tl.program_id(1)
    table = page_table + tl.load(requests + nth).to(tl.int64) * table_stride
    expected, held = latest_recall(
        guard + layer * guard_stride, table, tl.load(complete + nth), need, AT_ONCE, JUDGED
    )  # fmt: skip
    tl.store(out + layer * out_stride + nth, below(expected, held, need, floor).to(tl.int64))
