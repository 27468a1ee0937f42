"""Which rows of a forward read and write which rows of a snapshot."""

import torch

from sgl_indexcache.store.tables import Row, Tables


def test_a_forward_without_snapshots_has_none() -> None:
    layout = Tables(5, 16).lay_out(torch.tensor([1, 1, 2]), torch.tensor([3, 4, 9]))
    assert layout.write_rows.numel() == layout.read_rows.numel() == 0


def test_rows_find_their_place_by_request_and_position() -> None:
    tables = Tables(5, 16)
    tables.write({1: Row(2, 32, 3, 16, 5, 1), 4: Row(0, 0)})
    # Request 1 at positions 14 to 33, request 4 at 0, one padding row.
    request = torch.tensor([1] * 20 + [4] + [0])
    length = torch.tensor([*range(15, 35), 1, 0])
    layout = tables.lay_out(request, length)
    assert layout.write_rows.tolist() == [18, 19, 20]
    assert layout.write_flat.tolist() == [2 * 16, 2 * 16 + 1, 0]
    assert layout.read_rows.tolist() == [2, 3, 4, 5, 6]
    assert layout.read_flat.tolist() == [48, 49, 50, 51, 52]
    assert layout.same_prefill.all()


def test_a_request_that_is_not_in_the_next_forward_has_no_row_any_more() -> None:
    tables = Tables(3, 16)
    tables.write({1: Row(2, 0), 2: Row(1, 0)})
    tables.write({2: Row(0, 16)})
    assert tables.row(1) == Row()
    assert tables.row(2) == Row(0, 16)
