"""The packed corpus: read back as it was, and one sentence where it is not."""

import lzma
from pathlib import Path

import pytest
import torch

from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.training.shards import ShardError, read_shard


def test_a_shard_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "heldout.bin.xz").write_bytes(lzma.compress(bytes(range(256))))
    assert read_shard(tmp_path, "heldout", torch.device("cpu")).tolist() == list(range(256))


@pytest.mark.parametrize("content", [None, b"", b"no xz", lzma.compress(b"text" * 100)[:-9]])
def test_a_shard_that_is_not_there_or_not_whole_is_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "heldout.bin.xz").write_bytes(content)
    with pytest.raises(ShardError, match=r"nano corpus DIR") as error:
        read_shard(tmp_path, "heldout", torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_a_command_ends_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shortlist", "--data", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the corpus cannot be read from ")
    assert not (tmp_path / "out.json").exists()
