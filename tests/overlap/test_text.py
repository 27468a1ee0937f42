"""How text is cut for the overlap."""

import json
from pathlib import Path

import pytest

from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.nano.tokenizer import write_tokenizer
from sgl_indexcache.overlap.errors import OverlapError
from sgl_indexcache.overlap.run import check_size
from sgl_indexcache.overlap.text import windows


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    write_tokenizer(tmp_path, 64)
    return ModelFacts(tmp_path, "m", layers=6, top_k=16, vocabulary=320, context=64, fingerprint="m")


def test_windows_of_a_text_follow_one_another(model: ModelFacts, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_bytes(bytes(range(32, 127)))
    found = windows(text, model, [40, 20, 20], 2)
    assert list(found) == [20, 40]
    assert found[20] == [list(range(32, 52)), list(range(52, 72))]
    assert len(found[40]) == 2


def test_json_lines_give_their_beginnings(model: ModelFacts, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text(json.dumps({"text": "a" * 30}) + "\n" + json.dumps({"ids": [5] * 50}) + "\n")
    found = windows(file, model, [20, 40], 5)
    assert found == {20: [[97] * 20, [5] * 20], 40: [[5] * 40]}


def test_refusals(model: ModelFacts, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("x" * 100)
    with pytest.raises(OverlapError, match="no sequence of 200 tokens"):
        windows(text, model, [200], 1)
    with pytest.raises(OverlapError, match="length 16 is not longer"):
        windows(text, model, [16], 1)
    with pytest.raises(LiveError, match="the model takes 64"):
        windows(text, model, [80], 1)
    with pytest.raises(OverlapError, match="GiB for this model"):
        check_size(model, 1 << 24)
