"""The journal: what a kill leaves behind is read, what is foreign or damaged is refused."""

import json
from pathlib import Path

import pytest

from sgl_indexcache.search.errors import SearchError
from sgl_indexcache.search.journal import Journal

HEADER = {"model": "m1", "calibration": "c1", "settings": {"dtype": "float32"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "out" / "journal.jsonl"
    with Journal(found, HEADER) as journal:
        journal.put("FF", {"loss": 1.25})
        journal.put("FS", {"loss": 0.1 + 0.2})
    return found


def test_records_come_back_exactly(path: Path) -> None:
    with Journal(path, HEADER) as journal:
        assert len(journal) == 2
        assert journal.get("FS") == {"loss": 0.1 + 0.2}
        assert journal.get("SF") is None


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_last_line_cut_short_is_dropped_and_the_file_goes_on(path: Path, cut: int) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path, HEADER) as journal:
        assert journal.get("FF") == {"loss": 1.25}
        assert journal.get("FS") is None
        journal.put("FS", {"loss": 0.1 + 0.2})
    assert path.read_bytes() == whole


def test_a_last_line_of_noise_is_dropped(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 40 + b"\n")
    with Journal(path, HEADER) as journal:
        assert len(journal) == 2
    assert path.read_bytes() == whole


def test_a_cut_header_begins_anew(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])
    with Journal(path, HEADER) as journal:
        assert len(journal) == 0
    assert json.loads(path.read_text())["model"] == "m1"


@pytest.mark.parametrize("other", ["model", "calibration", "settings"])
def test_a_foreign_journal_is_refused_by_what_differs(path: Path, other: str) -> None:
    before = path.read_bytes()
    with pytest.raises(SearchError, match=f"journal of another {other}"):
        Journal(path, {**HEADER, other: "another"})
    assert path.read_bytes() == before


def test_a_damaged_line_in_the_middle_is_refused(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken\n" + lines[2])
    with pytest.raises(SearchError, match="line 2 is damaged"):
        Journal(path, HEADER)


def test_two_searches_do_not_write_one_journal(path: Path) -> None:
    with Journal(path, HEADER), pytest.raises(SearchError, match="being written by another search"):
        Journal(path, HEADER)


def test_no_number_that_json_has_not(path: Path) -> None:
    with Journal(path, HEADER) as journal, pytest.raises(ValueError, match="JSON"):
        journal.put("SF", {"loss": float("nan")})
