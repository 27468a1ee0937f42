"""Records of pages: what a forward writes into them, and what must never be read from them."""

import pytest
import torch

from sgl_indexcache.indexer.rows import Rows
from sgl_indexcache.kernels.layout import PAGE
from sgl_indexcache.store.digest import WIDTH, count_pages, most_selected, vote
from sgl_indexcache.store.pages import Pages, page_bytes

DIM, TOPK, LAYER = 16, 40, 3


def records(requests: int = 2, pages: int = 12, length: int = 8 * PAGE) -> Pages:
    return Pages([LAYER], pages * PAGE, DIM, requests, length)


def table(*ids: list[int]) -> torch.Tensor:
    slots = [(torch.tensor(row).unsqueeze(1) * PAGE + torch.arange(PAGE)).flatten() for row in ids]
    return torch.stack(slots).int()


def write(pages: Pages, keys: torch.Tensor, slots: torch.Tensor, request: int, start: int, end: int) -> Rows:
    rows = Rows.of([request], [end], [end - start], end - start)
    pages.begin(rows)
    pages.store_keys(LAYER, keys, slots, rows)
    return rows


def test_a_summary_is_the_mean_of_the_keys_so_far() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([7, 2, 9])
    pages = records()
    write(pages, keys, slots, 0, 0, PAGE + 5)
    ids = torch.tensor([7, 2])
    mean = torch.stack((keys[7 * PAGE : 8 * PAGE].mean(0), keys[2 * PAGE : 2 * PAGE + 5].mean(0)))
    # fp8 e4m3 keeps 3 bits of mantissa: half a step is 1/16 of the value.
    torch.testing.assert_close(pages.means(LAYER, ids), mean, rtol=1 / 16, atol=float(mean.abs().max()) / 448)
    assert pages.valid(LAYER, ids).tolist() == [True, False]


def test_slots_that_are_not_written_do_not_count() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([1])
    keys[PAGE + 9 :] = float("nan")
    pages = records()
    write(pages, keys, slots, 0, 0, 9)
    assert pages.means(LAYER, torch.tensor([1])).isfinite().all()


def test_a_summary_does_not_depend_on_how_a_page_was_filled() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([4, 5], [4, 5])
    whole, parts = records(), records()
    write(whole, keys, slots, 0, 0, 2 * PAGE)
    for start, end in ((0, 1), (1, 50), (50, 70), (70, 2 * PAGE)):
        write(parts, keys, slots, 0, start, end)
    assert torch.equal(whole.summaries, parts.summaries)
    assert torch.equal(whole.filled, parts.filled)


def test_a_page_that_changes_hands_keeps_nothing() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([4, 5], [5, 6])
    pages = records()
    rows = write(pages, keys, slots, 0, 0, 2 * PAGE)
    ids = pages.ids(slots, rows.spans[0])
    pages.store_selections(LAYER, ids, rows.spans[0], 0, selections(2 * PAGE))
    pages.store_recall(LAYER, 5, 10, 9)
    assert pages.digest[0, 5, 0].max() >= 0
    write(pages, keys, slots, 1, 0, 1)
    assert pages.valid(LAYER, torch.tensor([4, 5])).tolist() == [True, False]
    assert pages.vote(LAYER, torch.tensor([5]), 8, 4).numel() == 0
    assert pages.recall(LAYER, torch.tensor([5])).tolist() == [[0, 0]]


def test_other_pages_than_those_written_stay_as_they_are() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([4, 5, 6])
    pages = records()
    write(pages, keys, slots, 0, 0, PAGE)
    before = pages.summaries.clone()
    write(pages, keys, slots, 0, PAGE, 3 * PAGE)
    others = [page for page in range(12) if page not in (5, 6)]
    assert torch.equal(pages.summaries[:, others], before[:, others])


def selections(rows: int, seed: int = 0) -> torch.Tensor:
    """Of consecutive queries from position 0 on: up to TOPK positions of their past."""
    random = torch.Generator().manual_seed(seed)
    out = torch.full((rows, TOPK), -1, dtype=torch.int32)
    for t in range(rows):
        picks = torch.randperm(t + 1, generator=random)[:TOPK].sort().values
        out[t, : picks.numel()] = picks.int()
    return out


def expected_digest(picks: torch.Tensor) -> dict[int, int]:
    found: dict[int, int] = {}
    for position in picks[picks >= 0].tolist():
        found[position // PAGE] = found.get(position // PAGE, 0) + 1
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:WIDTH]
    return dict(best)


@pytest.mark.parametrize(
    "cuts",
    [[256], [64, 128, 192, 256], list(range(1, 257)), [40, 130, 131, 256]],
    ids=["whole", "pages", "decode", "ragged"],
)
def test_a_digest_counts_all_queries_of_its_page(cuts: list[int]) -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([7, 2, 9, 3])
    picks = selections(256)
    pages = records()
    start = 0
    for end in cuts:
        rows = write(pages, keys, slots, 0, start, end)
        span = rows.spans[0]
        pages.store_selections(LAYER, pages.ids(slots, span), span, start, picks[start:end])
        start = end
    for page, place in enumerate([7, 2, 9, 3]):
        ids, counts = pages.digest[0, place].tolist()
        found = {name: count for name, count in zip(ids, counts, strict=True) if name >= 0}
        assert found == expected_digest(picks[page * PAGE : (page + 1) * PAGE])


def test_a_page_that_lost_rows_has_no_digest_but_the_next_one_has() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([7, 2, 9])
    picks = selections(192)
    pages = records()
    write(pages, keys, slots, 0, 0, 20)  # its selections never came
    rows = Rows.of([0], [192], [160], 160)
    pages.begin(rows)  # and rows 20 to 31 are missing
    pages.store_keys(LAYER, keys, slots, rows)
    pages.store_selections(LAYER, pages.ids(slots, rows.spans[0]), rows.spans[0], 32, picks[32:])
    assert pages.digest[0, 7, 0].max() == -1
    assert pages.digest[0, 2, 0].max() >= 0


def test_a_page_whose_queries_selected_nothing_has_no_digest() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([7, 2, 9])
    picks = selections(192)
    pages = records()
    pages.lose(write(pages, keys, slots, 0, 0, 20))
    rows = write(pages, keys, slots, 0, 20, 192)
    pages.store_selections(LAYER, pages.ids(slots, rows.spans[0]), rows.spans[0], 20, picks[20:])
    assert pages.digest[0, 7, 0].max() == -1
    assert pages.digest[0, 2, 0].max() >= 0


def test_forgetting_makes_every_record_invalid() -> None:
    keys, slots = torch.randn(12 * PAGE, DIM), table([4, 5])
    pages = records()
    write(pages, keys, slots, 0, 0, 2 * PAGE)
    pages.forget()
    assert not pages.valid(LAYER, torch.tensor([4, 5])).any()
    assert pages.valid_pages == 0
    write(pages, keys, slots, 0, 0, PAGE)
    assert pages.valid(LAYER, torch.tensor([4, 5])).tolist() == [True, False]
    assert pages.valid_pages == 1


def test_most_selected_prefers_the_lower_page_and_leaves_out_zeros() -> None:
    pages, counts = most_selected(torch.tensor([[3, 0, 5, 5, 3, 0], [0, 0, 0, 0, 0, 1]]), 3)
    assert pages.tolist() == [[0, 2, 3], [5, -1, -1]]
    assert counts.tolist() == [[3, 5, 5], [1, 0, 0]]


def test_votes_add_up() -> None:
    digest = torch.tensor([[1, 4, -1], [4, 9, 2]], dtype=torch.int16)
    counts = torch.tensor([[6, 4, 0], [3, 50, 5]], dtype=torch.int16)
    assert vote(digest, counts, 9, 2).tolist() == [1, 4]
    assert vote(digest, counts, 2, 4).tolist() == [1]


def test_count_pages_ignores_padding() -> None:
    picks = torch.tensor([[0, 63, 64, -1], [-1, -1, -1, -1], [130, 131, -1, -1]], dtype=torch.int32)
    assert count_pages(picks, torch.tensor([0, 0, 1]), 2, 3).tolist() == [[2, 1, 0], [0, 0, 2]]


def test_a_record_stays_within_six_percent_of_fp8_index_keys() -> None:
    assert page_bytes(128) == 132 + 4 * WIDTH + 8 + 2 + 4
    assert page_bytes(128) <= 0.06 * PAGE * 132
    pages = Pages([0, 1], 100 * PAGE, 128, 0, 0)
    assert pages.used_bytes == 2 * 100 * page_bytes(128)
