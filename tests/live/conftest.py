"""A model folder without weights: all that the offline parts read."""

import json
from pathlib import Path

import pytest

from sgl_indexcache.live.model import ModelFacts, read_model
from sgl_indexcache.nano.layout import config_of
from sgl_indexcache.nano.spec import RandomModelSpec
from sgl_indexcache.nano.tokenizer import write_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    """6 layers, top-k 16, context 64, byte-level tokenizer."""
    folder = tmp_path / "model"
    folder.mkdir()
    spec = RandomModelSpec(layers=6, index_topk=16, max_positions=64)
    (folder / "config.json").write_text(json.dumps(config_of(spec)))
    write_tokenizer(folder, 64)
    return read_model(folder)
