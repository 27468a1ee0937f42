"""Ranks that decide differently are found."""

from pathlib import Path

import pytest

from .fuzz.decisions import compare

LINES = [f"begin {number}" for number in range(9)]


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (LINES, None),
        (LINES[:-1], None),
        ([*LINES[:4], "keep 7", *LINES[5:]], "rank 1: decision 4 is keep 7, not begin 4"),
        (LINES[:2], "the ranks made [9, 2] decisions"),
    ],
    ids=["the same", "an end is missing", "another decision", "far fewer"],
)
def test_compare(other: list[str], sentence: str | None, tmp_path: Path) -> None:
    for rank, lines in enumerate((LINES, other)):
        (tmp_path / f"{rank}.log").write_text("\n".join(lines))
    count, wrong = compare(tmp_path, 2)
    assert count == len(other)
    assert wrong == ([] if sentence is None else [sentence])
