"""What the model learns from: answers stand in the context, seeds decide everything, texts are cut right."""

from pathlib import Path

import pytest
import torch

from sgl_indexcache.nano.command_line import main
from sgl_indexcache.nano.phrases import CHAT, FAMILIES, SLOT, VALUE_LENGTH, encode, phrases
from sgl_indexcache.nano.tokenizer import EOS_ID
from sgl_indexcache.nano.training import corpus
from sgl_indexcache.nano.training.corpus import BOUNDARY, CorpusError, Piece, pack, pieces_of, read_source, text_of
from sgl_indexcache.nano.training.recipe import Mix
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.sources import Source
from sgl_indexcache.nano.training.tasks import Batch, copy_spans, make_batch, needle_batch, windows

CPU = torch.device("cpu")
TEXT = torch.frombuffer(
    bytearray(b"The quick brown fox jumps over the lazy dog; all of it is text.\n" * 400), dtype=torch.uint8
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spoken(ids: torch.Tensor) -> str:
    return bytes(byte for byte in ids.tolist() if byte < 256).decode("latin1")


def needles(distractors: int = 0, seed: int = 0, length: int = 1500) -> Batch:
    families = torch.arange(len(FAMILIES))
    depths = torch.linspace(0, 1, len(FAMILIES))
    return needle_batch(TEXT, length, depths, families, distractors, phrases(CPU), seeded(seed))


@pytest.mark.parametrize("distractors", [0, 3])
def test_a_needles_answer_stands_in_the_context_once(distractors: int) -> None:
    batch = needles(distractors)
    assert batch.tokens.shape == batch.targets.shape == (len(FAMILIES), 1500)
    for row in range(len(FAMILIES)):
        digits = batch.targets[row][batch.digits[row]]
        assert digits.numel() == VALUE_LENGTH
        asked = int(batch.answers[row].nonzero()[0])
        assert asked > 1500 - SLOT
        assert spoken(batch.tokens[row, : asked + 1]).count(spoken(digits)) == 1


def test_depth_is_where_the_fact_stands() -> None:
    batch = needle_batch(TEXT, 2000, torch.tensor([0.0, 0.5, 1.0]), torch.zeros(3).long(), 0, phrases(CPU), seeded())
    places = [spoken(row).index("The code of") / 2000 for row in batch.tokens]
    assert places == pytest.approx([0.0, 0.4, 0.85], abs=0.05)


def test_a_training_batch_asks_only_what_was_said() -> None:
    batch = make_batch(TEXT, 16, 1024, Mix(facts=1.0, copies=0.0), phrases(CPU), seeded())
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    asked = 0
    for row in range(16):
        places = batch.digits[row].nonzero()[:, 0]
        for group in places.view(-1, VALUE_LENGTH):
            assert group[-1] - group[0] == VALUE_LENGTH - 1
            said = spoken(batch.tokens[row, : int(group[0])])
            assert spoken(batch.targets[row, group]) in said
            asked += 1
    assert asked > 16, "a batch of facts asks more than one question a sequence"
    assert (batch.weights[batch.answers] == Mix().answer_weight).all()


def test_the_random_bytes_of_a_fact_cost_nothing() -> None:
    batch = make_batch(TEXT, 4, 1024, Mix(facts=1.0, copies=0.0), phrases(CPU), seeded())
    free = batch.weights == 0
    assert free.any()
    assert not (free & batch.answers).any()


@pytest.mark.parametrize("mix", [Mix(), Mix(facts=0.0, copies=1.0)], ids=["facts", "copies"])
def test_a_seed_decides_a_batch(mix: Mix) -> None:
    one, two, other = (make_batch(TEXT, 4, 512, mix, phrases(CPU), seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.tokens, other.tokens)


def test_text_alone_is_a_window_of_the_text() -> None:
    batch = make_batch(TEXT, 4, 256, Mix(facts=0.0, copies=0.0), phrases(CPU), seeded())
    assert not batch.answers.any()
    assert (batch.weights == 1).all()
    whole = spoken(TEXT)
    assert all(spoken(row) in whole for row in batch.tokens)


def test_a_copy_repeats_a_span_of_the_first_half() -> None:
    sequence = torch.arange(400).expand(3, -1).contiguous()
    copied = copy_spans(sequence, 1.0, seeded())
    for row in copied:
        changed = (row != torch.arange(400)).nonzero()[:, 0]
        assert changed.numel() == 100
        assert int(changed[0]) >= 200
        assert int(row[changed].max()) < 200
        assert (row[changed].diff() == 1).all()


def test_boundaries_become_end_of_sequence() -> None:
    text = torch.full((100,), 65, dtype=torch.uint8)
    text[50] = BOUNDARY
    found = windows(text, 8, 99, seeded())
    assert set(found.unique().tolist()) == {65, EOS_ID}


def test_every_phrase_fits_its_slot_and_every_question_holds_its_key() -> None:
    tables = phrases(CPU)
    for number, (says, asks) in enumerate(FAMILIES):
        assert len(encode(says)) <= SLOT
        assert "{K}" in says
        assert "{V}" in says
        assert "{K}" in asks
        assert int(tables.digits[number].sum()) == VALUE_LENGTH
    assert all(says.count("<s>") == says.count("</s>") for says, _ in CHAT)


def fake_package(root: Path) -> Source:
    """A text, an equal text, a page, an index, and one too short, under `root`."""
    folder = root / "usr/share/doc/fake"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("A line of the first text.   \n\n\n\nAnother one.\r\n" * 3000)
    (folder / "b.txt").write_text("A line of the first text.   \n\n\n\nAnother one.\r\n" * 3000)
    (folder / "c.html").write_text(
        "<head><title>no</title></head><p>" + "Words of a page. " * 20 + "<script>no</script>"
    )
    (folder / "d.index").write_text("x" * 500)
    (folder / "e.txt").write_text("too short")
    return Source("fake", "MIT", "usr/share/doc/fake/*", 10**6)


def test_a_source_is_read_cut_and_freed_of_repetition(tmp_path: Path) -> None:
    source = fake_package(tmp_path)
    pieces = read_source(source, tmp_path)
    # One of the equal texts, in two pieces, and the page.
    assert sorted(len(piece.text) for piece in pieces)[0] < 400
    assert len(pieces) == 3
    text = b"".join(piece.text for piece in pieces)
    assert b"   \n" not in text
    assert b"\n\n\n" not in text
    assert b"no" not in text.replace(b"Another one", b"")
    assert [p.order for p in pieces] == sorted(p.order for p in pieces)
    assert pieces == read_source(source, tmp_path)


def test_a_source_without_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="fake"):
        read_source(Source("fake", "MIT", "*.txt", 100), tmp_path)


def test_pieces_end_at_line_ends_and_lose_nothing() -> None:
    text = "some words in a line\n" * 10_000
    pieces = list(pieces_of("p", "f", text))
    assert b"".join(piece.text for piece in pieces).decode() == text
    assert all(piece.text.endswith(b"\n") for piece in pieces)
    assert len({piece.order for piece in pieces}) == len(pieces) == 4


def test_packing_splits_by_hash_and_reads_back(tmp_path: Path) -> None:
    pieces = [Piece(bytes([n]) * 32, b"piece %d" % n) for n in (0, 1, 64, 65)]
    facts = pack(list(reversed(pieces)), tmp_path)
    assert [facts[name]["pieces"] for name in ("train", "heldout")] == [2, 2]
    train = bytes(read_shard(tmp_path, "train", CPU).tolist())
    assert train == b"piece 1" + bytes([BOUNDARY]) + b"piece 65"
    assert facts == pack(pieces, tmp_path)


def test_a_corpus_is_built_with_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = fake_package(tmp_path / "root")
    monkeypatch.setattr(corpus, "SOURCES", (source,))
    monkeypatch.setattr(corpus, "fetch", lambda source, folder: (tmp_path / "root", "1.0"))
    assert main(["corpus", str(tmp_path / "out")]) == 0
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    assert '"package": "fake"' in manifest
    assert '"version": "1.0"' in manifest
    assert str(tmp_path) not in manifest
    assert "sha256" in capsys.readouterr().out


def test_packed_text_is_unpacked(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(b"inside\x00\n"))
    assert text_of(tmp_path / "x.txt.gz") == "inside\n"
