"""`sgl-indexcache plot`: PNGs from the JSON of a result, and nothing from anything else."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sgl_indexcache.cli.app import app
from sgl_indexcache.results import ResultError

MODEL = {"name": "m", "layers": 3, "index_topk": 4, "fingerprint": "0"}
SEARCH = {
    "schema": "sgl_indexcache.search/1",
    "model": MODEL,
    "calibration": {"tokens": 1000},
    "settings": {"scorer": "loss"},
    "steps": [
        {"full_layers": 3, "pattern": "FFF", "loss": 1.0},
        {"full_layers": 2, "pattern": "FSF", "loss": 1.1, "flipped": 1, "candidates": {"1": 1.1, "2": 1.4}},
    ],
}


def test_a_search_is_drawn_from_its_json(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text(json.dumps(SEARCH))
    result = CliRunner().invoke(app, ["plot", str(tmp_path / "search.json")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "is no result"),
        ("[]", "is no result"),
        ("{", "is no result"),
        (json.dumps({"schema": "sgl_indexcache.loadtest/1"}), "which has no plot"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "result.json"
    if text is not None:
        path.write_text(text)
    result = CliRunner().invoke(app, ["plot", str(path)])
    assert isinstance(result.exception, ResultError)
    assert expected in str(result.exception)
    assert not list(tmp_path.glob("*.png"))
