"""Packing: every token once and in order, documents apart, the order a function of the seed, bad lines refused."""

import json
from pathlib import Path

import pytest
import torch

from sgl_indexcache.distill import data
from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.errors import UserError
from sgl_indexcache.live.model import ModelFacts, read_model


@pytest.fixture
def facts(tiny: Path) -> ModelFacts:
    return read_model(tiny)


def write(path: Path, documents: list[list[int]]) -> Path:
    path.write_text("\n\n".join(json.dumps({"ids": ids}) for ids in documents))
    return path


def test_documents_fill_sequences_in_order(tmp_path: Path, facts: ModelFacts) -> None:
    documents = [[1, 2, 3], [4, 5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16, 17, 18]]
    packed = data.pack(write(tmp_path / "d.jsonl", documents), facts, 6, tmp_path / "packed")
    assert packed.sequences == 3
    batch = packed.batch([0, 1, 2])
    order = [packed.place(number) for number in range(3)]
    tokens = batch.tokens[torch.tensor(order).argsort()]
    assert tokens.flatten().tolist() == list(range(1, 19))
    assert batch.first is not None
    first = batch.first[torch.tensor(order).argsort()]
    # 1 2 3 | 4 5 6   7 8 | 9 | 10 11 12   13 ... 18: a document cut by the end goes on as another
    assert first.tolist() == [[0, 0, 0, 3, 3, 3], [0, 0, 2, 3, 3, 3], [0] * 6]
    weights = batch.target_weights[torch.tensor(order).argsort()]
    assert weights.tolist() == [[1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0]]
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])


def test_less_than_a_sequence_is_padded_by_what_teaches_nothing(tmp_path: Path, facts: ModelFacts) -> None:
    packed = data.pack(write(tmp_path / "d.jsonl", [[7, 8, 9]]), facts, 5, tmp_path / "packed")
    batch = packed.batch([0])
    assert batch.tokens.tolist() == [[7, 8, 9, 0, 0]]
    assert batch.target_weights.tolist() == [[1, 1, 0, 0, 0]]
    assert batch.first is not None
    assert batch.first.tolist() == [[0, 0, 0, 3, 4]]


def test_every_pass_has_every_sequence_once_in_an_order_of_its_own(
    tmp_path: Path, lines: Path, facts: ModelFacts
) -> None:
    packed = data.pack(lines, facts, 32, tmp_path / "packed")
    count = packed.sequences
    passes = [[packed.place(turn * count + at) for at in range(count)] for turn in range(3)]
    assert all(sorted(each) == list(range(count)) for each in passes)
    assert passes[0] != passes[1]
    other = data.PackedData(packed.folder, 32, count, packed.key, seed=1)
    assert [other.place(at) for at in range(count)] != passes[0]
    # A step far on is found without the steps before it.
    again = data.PackedData(packed.folder, 32, count, packed.key)
    assert again.place(2 * count + 5) == passes[2][5]


def test_packed_once_for_the_same_data(tmp_path: Path, facts: ModelFacts) -> None:
    path, folder = write(tmp_path / "d.jsonl", [list(range(40))]), tmp_path / "packed"
    data.pack(path, facts, 8, folder)
    before = (folder / "tokens.bin").stat().st_mtime_ns
    data.pack(path, facts, 8, folder)
    assert (folder / "tokens.bin").stat().st_mtime_ns == before
    write(path, [list(range(100, 140))])
    assert data.pack(path, facts, 8, folder).batch([0]).tokens.min() >= 100


def test_a_folder_of_files_and_text(tmp_path: Path, facts: ModelFacts) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "b.jsonl").write_text('{"text": "zz"}\n')
    (folder / "a.jsonl").write_text('{"text": "ab", "other": 1}\n')
    assert list(data.documents(folder, facts)) == [[97, 98], [122, 122]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "nothing to learn"),
        ('{"ids": [5]}\n', "nothing to learn"),
        ('{"ids": [1, 2, 3]}\n{"ids": [1, 100000]}\n', "line 2 holds token ids outside"),
        ('{"ids": [1, 2, 3]}\nnonsense\n', "line 2 is not JSON"),
        ('{"ids": [1, 2, 3]}\n[1]\n', "line 2 is no JSON object"),
        ('{"ids": [1, 2, 3]}\n{"other": 1}\n', "line 2 must have either text or ids"),
    ],
)
def test_bad_lines_are_named_and_leave_nothing(tmp_path: Path, facts: ModelFacts, content: str, said: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        data.pack(path, facts, 2, tmp_path / "packed")
    assert not list((tmp_path / "packed").glob("*"))


def test_no_data(tmp_path: Path, facts: ModelFacts) -> None:
    with pytest.raises(DistillError, match="does not exist"):
        data.check_readable(tmp_path / "none.jsonl", facts)
    with pytest.raises(DistillError, match=r"no \*\.jsonl"):
        data.check_readable(tmp_path, facts)
