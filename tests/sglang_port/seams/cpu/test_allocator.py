"""The allocator's torch kernels against SGLang's Triton kernels' contract, written out as a plain model."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sgl_indexcache.sglang_port.seams.cpu.allocator import AllocDecode, AllocExtend


class Plain:
    """Token by token: the next slot of the open page, or the first of the next free page."""

    def __init__(self, free: list[int], page: int) -> None:
        self.free, self.page = list(free), page

    def next_slot(self, length: int, last: int) -> int:
        if length % self.page == 0:
            return self.free.pop(0) * self.page
        return last + 1


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int]], list[int]]:
    page = draw(st.sampled_from([1, 4, 64]))
    requests = []
    for index in range(draw(st.integers(1, 5))):
        before = draw(st.integers(0, 3 * page))
        last = -1 if before == 0 else (1000 + index) * page + (before - 1) % page
        requests.append((before, before + draw(st.integers(1, 3 * page)), last))
    return page, requests, draw(st.permutations(range(1, 30)))


@given(batches())
def test_extend(batch: tuple[int, list[tuple[int, int, int]], list[int]]) -> None:
    page, requests, free = batch
    plain, expected = Plain(free, page), []
    for before, after, last in requests:
        for length in range(before, after):
            last = plain.next_slot(length, last)
            expected.append(last)
    out = torch.full((len(expected),), -1)
    before, after, last = (torch.tensor(column) for column in zip(*requests, strict=True))
    AllocExtend[(len(requests),)](before, after, last, torch.tensor(free), out, 8, page)
    assert out.tolist() == expected


@given(batches())
def test_decode(batch: tuple[int, list[tuple[int, int, int]], list[int]]) -> None:
    page, requests, free = batch
    plain = Plain(free, page)
    expected = [plain.next_slot(before, last) for before, _, last in requests]
    out = torch.full((len(requests),), -1)
    before, _, last = (torch.tensor(column) for column in zip(*requests, strict=True))
    AllocDecode[(len(requests),)](before + 1, last, torch.tensor(free), out, 8, page)
    assert out.tolist() == expected


def test_too_few_pages_leave_the_rest_unwritten_and_do_not_raise() -> None:
    out = torch.full((8,), -1)
    AllocExtend[(1,)](torch.tensor([0]), torch.tensor([8]), torch.tensor([-1]), torch.tensor([3]), out, 1, 4)
    assert out.tolist() == [12, 13, 14, 15, -1, -1, -1, -1]
    out = torch.full((2,), -1)
    none = torch.empty(0, dtype=torch.int64)
    AllocDecode[(2,)](torch.tensor([5, 5]), torch.tensor([3, 7]), none, out, 2, 4)
    assert out.shape == (2,)
