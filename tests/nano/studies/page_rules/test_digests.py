"""An election by digests against the same, counted in plain Python."""

import pytest
import torch

from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.nano.studies.page_rules.digests import VOTERS, WIDTH, elect

PAGES = 50


def counts(seed: int) -> torch.Tensor:
    """float32 [PAGES * PAGE, PAGES]: positions that a row selected in each page before it, no sums alike."""
    table = torch.rand(PAGES * PAGE, PAGES, generator=torch.Generator().manual_seed(seed))
    return table * (torch.arange(PAGES) <= torch.arange(PAGES * PAGE).unsqueeze(1) // PAGE)


@pytest.mark.parametrize("page", [1, 2, 7, 40, 49])
@pytest.mark.parametrize("width", [1, 4])
def test_votes_are_the_sums_of_the_digests(page: int, width: int) -> None:
    table = counts(page)
    votes = dict.fromkeys(range(PAGES), 0.0)
    for voter in range(max(0, page - VOTERS), page):
        sums = table[voter * PAGE : (voter + 1) * PAGE].sum(0).tolist()
        for named in sorted(range(PAGES), key=lambda each: -sums[each])[:WIDTH]:
            votes[named] += sums[named]
    winners = sorted(range(page), key=lambda each: -votes[each])[:width]
    elected = elect(table, page, width, PAGES)
    assert elected.shape == (PAGES,)
    assert elected.nonzero().flatten().tolist() == sorted(each for each in winners if votes[each] > 0)


def test_the_first_page_has_no_voters_and_what_nobody_selected_is_not_elected() -> None:
    assert not elect(counts(0), 0, 4, PAGES).any()
    table = torch.zeros(5 * PAGE, 5)
    table[3 * PAGE :, 1] = 1.0
    assert elect(table, 4, 4, 4).tolist() == [False, True, False, False]
