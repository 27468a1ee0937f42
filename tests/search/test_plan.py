"""Budgets and plans: what is understood, and refusals of one sentence."""

import pytest

from sgl_indexcache.search.budget import full_layers
from sgl_indexcache.search.errors import SearchError
from sgl_indexcache.search.run import Plan


@pytest.mark.parametrize(("keep", "layers", "full"), [("1/4", 47, 12), ("1/4", 16, 4), ("1/1", 6, 6), ("3", 6, 3)])
def test_budgets(keep: str, layers: int, full: int) -> None:
    assert full_layers(keep, layers) == full


@pytest.mark.parametrize("keep", ["0", "7", "2/4", "0.25", "-1", "", "1/0"])
def test_budget_refusals(keep: str) -> None:
    with pytest.raises(SearchError, match="keep"):
        full_layers(keep, 6)


def test_plan_refusals() -> None:
    with pytest.raises(SearchError, match="scorer 'cosine' is unknown"):
        Plan(3, "cosine")  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="blocks belong to the scorer loss"):
        Plan(3, "uniform", blocks=2)
