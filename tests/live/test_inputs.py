"""What a user hands in: calibration files, needle files, models; each refusal is one sentence."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache.live import sequences
from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.model import ModelFacts, read_model
from sgl_indexcache.live.needles import read_needles
from sgl_indexcache.live.sequences import read_sequences

LONG = list(range(20))


def lines(path: Path, *entries: Any) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_text_and_ids_are_read_alike(model: ModelFacts, tmp_path: Path) -> None:
    file = lines(tmp_path / "c.jsonl", {"text": "abcdefghijklmnopqrst"}, {"ids": LONG, "source": "x"})
    result = read_sequences(file, model)
    assert result.ids == (tuple(b"abcdefghijklmnopqrst"), tuple(LONG))
    assert result.tokens == 40
    assert read_sequences(file, model, length=18).tokens == 36


def test_tokenised_once(model: ModelFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = lines(tmp_path / "c.jsonl", {"text": "x" * 20}), tmp_path / "out" / "tokens.json"
    first = read_sequences(file, model, cache=cache)

    def never(*_: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(sequences.Tokeniser, "__call__", never)
    assert read_sequences(file, model, cache=cache) == first
    with pytest.raises(AssertionError, match="tokenised again"):
        read_sequences(file, dataclasses.replace(model, fingerprint="another"), cache=cache)
    lines(file, {"text": "y" * 20})
    with pytest.raises(AssertionError, match="tokenised again"):
        read_sequences(file, model, cache=cache)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "holds no sequences"),
        ([{"ids": LONG}, {"ids": list(range(16))}], "line 2 has 16 tokens but the model selects 16"),
        ([{"text": "short"}], "line 1 has 5 tokens but the model selects 16"),
        ([{"ids": [0] * 65}], "has 65 tokens but the model takes 64"),
        ([{"ids": [320] * 20}], r"outside 0\.\.319"),
        ([{"ids": [-1] * 20}], r"outside 0\.\.319"),
        ([{"ids": [0.5] * 20}], "list of whole numbers"),
        ([{"ids": "abc"}], "list of whole numbers"),
        ([{"text": 3}], "must be a string"),
        ([{"text": "x" * 20, "ids": LONG}], "either text or ids"),
        ([{}], "either text or ids"),
        (["text"], "no JSON object"),
    ],
)
def test_calibration_refusals(model: ModelFacts, tmp_path: Path, entries: list[Any], sentence: str) -> None:
    with pytest.raises(LiveError, match=sentence) as caught:
        read_sequences(lines(tmp_path / "c.jsonl", *entries), model)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(model: ModelFacts, tmp_path: Path) -> None:
    with pytest.raises(LiveError, match="cannot be read: No such file"):
        read_sequences(tmp_path / "none", model)
    (tmp_path / "c.jsonl").write_text('{"ids": [1,\n')
    with pytest.raises(LiveError, match="line 1 is not JSON"):
        read_sequences(tmp_path / "c.jsonl", model)
    with pytest.raises(LiveError, match="length 16 is not longer"):
        read_sequences(tmp_path / "c.jsonl", model, length=16)


def test_needles(model: ModelFacts, tmp_path: Path) -> None:
    file = lines(tmp_path / "n.jsonl", {"text": "say", "answer": " abc"}, {"ids": [1], "answer": [2, 3]})
    first, second = read_needles(file, model).tasks
    assert (first.ids, first.answer, first.new_tokens) == (list(b"say"), " abc", 8)
    assert (second.ids, second.answer, second.new_tokens) == ([1], [2, 3], 2)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "holds no tasks"),
        ([{"text": "say"}], "answer must be"),
        ([{"text": "say", "answer": " "}], "answer must be"),
        ([{"text": "say", "answer": []}], "answer must be"),
        ([{"answer": "x"}], "either text or ids"),
    ],
)
def test_needle_refusals(model: ModelFacts, tmp_path: Path, entries: list[Any], sentence: str) -> None:
    with pytest.raises(LiveError, match=sentence):
        read_needles(lines(tmp_path / "n.jsonl", *entries), model)


def test_the_fingerprint_is_of_weights_and_shape_and_not_of_the_pattern(model: ModelFacts) -> None:
    path = model.folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "index_topk_pattern": "FSSSSS"}))
    assert read_model(model.folder).fingerprint == model.fingerprint
    path.write_text(json.dumps({**config, "hidden_size": 64}))
    assert read_model(model.folder).fingerprint != model.fingerprint
    path.write_text(json.dumps(config))
    (model.folder / "model.safetensors").write_bytes(b"weights")
    assert read_model(model.folder).fingerprint != model.fingerprint
