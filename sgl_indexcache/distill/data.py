"""JSON lines of text or token ids, packed into sequences of one length, on disk.

Packing streams: a file is read line by line and written token by token, so neither needs to fit into memory.
Documents fill sequences one after another, and a document that meets a sequence's end goes on in the next as one of
its own. On disk stands one int32 a token, the complement (~id) for the first of a document.

The order of sequences is a permutation of each pass over the data, a function of seed and pass alone: any process
finds the sequences of any step without having read those before.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from sgl_indexcache.distill.errors import DistillError
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.sequences import Tokeniser, prompt_of

FORMAT = 1
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences of T tokens to learn from.

    tokens          int64 [B, T]
    targets         int64 [B, T], the token that follows
    target_weights  float32 [B, T], zero where nothing follows
    first           int64 [B, T], first token of each token's document; None where every sequence is one
    row_share       float32 [B, T], how likely each query is drawn for the KL; zero never; None: all alike
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    target_weights: torch.Tensor
    first: torch.Tensor | None = None
    row_share: torch.Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        move = (self.tokens, self.targets, self.target_weights, self.first, self.row_share)
        return Batch(*(None if each is None else each.to(device) for each in move))  # type: ignore[arg-type]


class Source(Protocol):
    """Where sequences come from, by number: any number from 0 on, always the same for the same number."""

    def batch(self, numbers: Sequence[int]) -> Batch: ...

    def described(self) -> dict[str, Any]:
        """For logs, and to tell whether a state belongs to this data."""
        ...


def lines_of(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    """File, number and content of every line that is not blank, of a file or of a folder's *.jsonl in order."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise DistillError(f"{path} holds no *.jsonl: name a file, or a folder of such files")
    for name in files:
        try:
            with name.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield name, number, line
        except OSError as error:
            raise DistillError(f"{name} cannot be read: {error.strerror or error}") from None


def documents(path: Path, model: ModelFacts) -> Iterator[list[int]]:
    """Token ids of every line; raises DistillError or LiveError, naming the line."""
    tokenise = Tokeniser(model)
    for name, number, line in lines_of(path):
        place = f"{name.name} line {number}"
        try:
            entry = json.loads(line)
        except ValueError:
            raise DistillError(f"{place} is not JSON: write one object a line") from None
        if not isinstance(entry, dict):
            raise DistillError(f'{place} is no JSON object: write {{"text": ...}} or {{"ids": [...]}}')
        ids = tokenise(prompt_of(entry, place))
        if ids and not (min(ids) >= 0 and max(ids) < model.vocabulary):
            raise DistillError(f"{place} holds token ids outside 0..{model.vocabulary - 1}")
        yield ids


def pack(path: Path, model: ModelFacts, length: int, folder: Path) -> "PackedData":
    """Pack `path` into `folder` (tokens.bin, packed.json), or take what an earlier run packed of the same.

    Raises:
        DistillError: nothing to learn from, or a line that cannot be used; nothing is left behind.
    """
    key = _key(path, model, length)
    packed = _opened(folder, key, length)
    if packed is not None:
        return packed
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "tokens.bin.new"
    held, sequences, used = np.zeros(length, np.int32), 0, 0
    room = length
    try:
        with scratch.open("wb") as file:
            for ids in documents(path, model):
                rest = np.asarray(ids, np.int32)
                while len(rest):
                    piece, rest = rest[:room], rest[room:]
                    # A single token has neither a context nor a successor; it would only take room.
                    if len(piece) == 1 and room == length:
                        break
                    at = length - room
                    held[at : at + len(piece)] = piece
                    held[at] = ~piece[0]
                    room, used = room - len(piece), used + len(piece)
                    if room == 0:
                        held.tofile(file)
                        sequences, room = sequences + 1, length
            if sequences == 0 and used > 1:
                # Less than one sequence: the rest are documents of one token each, which teach nothing.
                held[length - room :] = ~np.int32(0)
                held.tofile(file)
                sequences = 1
        if sequences == 0:
            raise DistillError(f"{path} holds nothing to learn from: write one JSON object a line, with text or ids")
        os.replace(scratch, folder / "tokens.bin")
    finally:
        scratch.unlink(missing_ok=True)
    facts = {"format": FORMAT, "key": key, "length": length, "sequences": sequences, "tokens": sequences * length}
    (folder / "packed.json").write_text(json.dumps(facts, indent=1) + "\n")
    return PackedData(folder, length, sequences, key)


def check_readable(path: Path, model: ModelFacts) -> None:
    """Refuse, before anything is made, data whose first line cannot be used, or that has none."""
    if not path.exists():
        raise DistillError(f"{path} does not exist: name a file of JSON lines")
    if next((True for ids in documents(path, model) if len(ids) > 1), None) is None:
        raise DistillError(f"{path} holds nothing to learn from: write one JSON object a line, with text or ids")


def _key(path: Path, model: ModelFacts, length: int) -> str:
    digest = hashlib.sha256(f"{FORMAT}/{model.fingerprint}/{length}".encode())
    for name in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        digest.update(name.name.encode())
        with name.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _opened(folder: Path, key: str, length: int) -> "PackedData | None":
    try:
        facts = json.loads((folder / "packed.json").read_text())
        if facts["key"] == key and (folder / "tokens.bin").stat().st_size == 4 * facts["tokens"]:
            return PackedData(folder, length, facts["sequences"], key)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: it is made again
    return None


class PackedData:
    """A Source over a packed folder; the file is mapped, not read.

    folder                  what `pack` wrote
    length, sequences, key  as it says there
    seed                    of the order
    """

    def __init__(self, folder: Path, length: int, sequences: int, key: str, seed: int = 0) -> None:
        self.folder, self.length, self.sequences, self.key, self.seed = folder, length, sequences, key, seed
        self._tokens = np.memmap(folder / "tokens.bin", np.int32, "r", shape=(sequences, length))
        self._order: tuple[int, np.ndarray] | None = None

    def described(self) -> dict[str, Any]:
        return {"key": self.key, "sequences": self.sequences, "length": self.length}

    def place(self, number: int) -> int:
        """The sequence on disk that has this number."""
        turn, within = divmod(number, self.sequences)
        if self._order is None or self._order[0] != turn:
            self._order = turn, np.random.default_rng([self.seed, turn]).permutation(self.sequences)
        return int(self._order[1][within])

    def batch(self, numbers: Sequence[int]) -> Batch:
        raw = torch.from_numpy(np.stack([self._tokens[self.place(number)] for number in numbers]).astype(np.int64))
        begins = raw < 0
        tokens = torch.where(begins, ~raw, raw)
        position = torch.arange(self.length).expand_as(raw)
        first = torch.where(begins, position, 0).cummax(1).values
        targets = tokens.roll(-1, 1)
        # The last token of a document, and of the sequence, has no successor.
        weights = (~begins).float().roll(-1, 1)
        weights[:, -1] = 0.0
        return Batch(tokens, targets, weights, first if bool(first.any()) else None)
