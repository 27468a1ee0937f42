"""The guard of prefills in Triton's interpreter; run by tests/kernels/test_shortlist.py in a process of its own."""

import sys
from pathlib import Path

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.kernels.shortlist import cuda_guard, reference

sys.path.insert(0, str(Path(__file__).parent))
import mended_interpreter  # noqa: F401  (before the first call of a kernel)

K, N, GROUPS, POOL = 40, 6, 5, 60


class Samples:
    """Samples of one request, whose groups' own pages are its 20th and 21st."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        own = torch.tensor([20, 20, 20, 21, 21])
        lists = [torch.cat((torch.randperm(int(last))[:N].sort()[0], last[None])) for last in own]
        self.listed = torch.full((GROUPS, N + 3), -9, dtype=torch.int32)[:, : N + 1]  # wider rows than lists
        self.listed.copy_(torch.stack(lists))
        self.group = torch.tensor([0, 2, 2, 4], dtype=torch.int32)
        self.lengths = (own[self.group.long()] * PAGE + torch.tensor([1, 7, 64, 30])).int()
        self.exact = torch.stack([torch.randperm(int(n))[:K].sort()[0] for n in self.lengths]).int()
        self.table = torch.randperm(POOL)[:22].int()
        self.guard = torch.randint(0, 9, (POOL, 2)).int()
        self.counts = torch.tensor([3, 5, 7, 9])

    def run(self, judge: object, counted: bool) -> tuple[torch.Tensor, torch.Tensor]:
        records, counts = self.guard.clone(), self.counts.clone()
        judge(  # type: ignore[operator]
            self.exact, self.listed, self.group, self.table, self.lengths, records, counts, counted=counted
        )
        return records, counts


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_samples_are_judged_as_the_reference_does(seed: int, counted: bool) -> None:
    samples = Samples(seed)
    samples.exact[1, 30:] = -1
    records, counts = samples.run(cuda_guard.judge, counted)
    expected = samples.run(reference.judge, counted)
    assert torch.equal(records, expected[0])
    assert torch.equal(counts, expected[1])
    added = records - samples.guard
    assert added[:, 0].sum() == 4 * K
    assert 0 < added[:, 1].sum() < 4 * K
    assert torch.equal(counts, samples.counts + torch.tensor([4, int(added[:, 1].sum()), 0, 0]) * counted)


def test_a_list_of_everything_holds_everything() -> None:
    samples = Samples(0)
    samples.listed = torch.arange(22, dtype=torch.int32).expand(GROUPS, -1).contiguous()
    records, _ = samples.run(cuda_guard.judge, True)
    added = records - samples.guard
    assert torch.equal(added[:, 0], added[:, 1])


@pytest.mark.parametrize("need", [2 * K, 5 * K])
def test_contexts_are_judged_by_their_latest_samples(need: int) -> None:
    torch.manual_seed(need)
    layers, pages = 3, 200
    records = torch.zeros(layers, pages, 2, dtype=torch.int32)
    for page in range(1, pages, 3):
        records[:, page, 0] = K
        records[:, page, 1] = torch.randint(K // 2, K + 1, (layers,))
    table = torch.stack([torch.randperm(pages) for _ in range(4)]).int()
    requests, complete = torch.tensor([3, 0, 2], dtype=torch.int32), torch.tensor([190, 131, 2], dtype=torch.int32)
    for floor in (0.0, 0.7, 0.75, 0.8, 1.01):
        result, expected = torch.full((layers, 5), 7), torch.full((layers, 5), 7)
        cuda_guard.verdicts(records, table, requests, complete, need, floor, result[:, 2:])
        reference.verdicts(records, table, requests, complete, need, floor, expected[:, 2:])
        assert torch.equal(result, expected)
        assert result[:, :2].eq(7).all()
        assert result[:, 4].eq(0).all()  # too few samples
        if floor in (0.0, 1.01):  # no context is worse, every one is
            assert result[:, 2:4].eq(int(floor > 1)).all()


def test_other_layouts_are_refused() -> None:
    samples = Samples(0)
    samples.group = samples.group[:2]
    with pytest.raises(ValueError, match="one entry for each"):
        samples.run(cuda_guard.judge, True)
    samples = Samples(0)
    samples.guard = samples.guard.long()
    with pytest.raises(ValueError, match="int32"):
        samples.run(cuda_guard.judge, True)
    samples = Samples(0)
    samples.exact = samples.exact.T.contiguous().T
    with pytest.raises(ValueError, match="contiguous"):
        samples.run(cuda_guard.judge, True)
