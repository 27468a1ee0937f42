"""Token sequences for calibration and evaluation: JSON lines of text or token ids, tokenised once and kept."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.model import ModelFacts


@dataclass(frozen=True, slots=True)
class Sequences:
    """A fixed set of token sequences. `name`: the file's name; `ids`: token ids, one tuple a sequence."""

    name: str
    ids: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens in all sequences together."""
        return sum(len(sequence) for sequence in self.ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (16 hex digits) over the token ids."""
        return hashlib.sha256(json.dumps(self.ids).encode()).hexdigest()[:16]

    def described(self) -> dict[str, Any]:
        """For reports."""
        return {
            "file": self.name,
            "fingerprint": self.fingerprint,
            "sequences": len(self.ids),
            "tokens": self.tokens,
        }


def read_sequences(path: Path, model: ModelFacts, *, cache: Path | None = None, length: int | None = None) -> Sequences:
    """Read JSON lines, each `{"text": "..."}` or `{"ids": [...]}`; other keys are left alone.

    A sequence must be longer than the model's top-k: shorter ones select every position under any pattern,
    and so say nothing about it.

    cache   file that keeps the tokenised sequences; used again while file, model and length are the same
    length  take the first so many tokens of every sequence; None takes all

    Raises:
        LiveError: the file is missing or empty, or a line cannot be used; the text names the line.
    """
    if length is not None and length <= model.top_k:
        raise LiveError(
            f"length {length} is not longer than the model's selection of {model.top_k} tokens: choose a longer one"
        )
    content = read_bytes(path)
    key = hashlib.sha256(content + f"/{model.fingerprint}/{length}".encode()).hexdigest()
    kept = _cached(cache, key)
    if kept is not None:
        return Sequences(path.name, kept)
    tokenise = Tokeniser(model)
    ids = tuple(
        _checked(tokenise(value)[:length], f"{path.name} line {number}", model)
        for number, value in _values(path, content)
    )
    if not ids:
        raise LiveError(f"{path} holds no sequences: write one JSON object a line, with text or ids")
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"key": key, "ids": ids}) + "\n")
    return Sequences(path.name, ids)


def read_bytes(path: Path) -> bytes:
    """The content of a file that the user named; raises LiveError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise LiveError(f"{path} cannot be read: {error.strerror or error}") from None


def objects(path: Path, content: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of every line that is not blank; raises LiveError for one that is no object."""
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            raise LiveError(f"{path.name} line {number} is not JSON: write one object a line") from None
        if not isinstance(entry, dict):
            raise LiveError(f'{path.name} line {number} is no JSON object: write {{"text": ...}}')
        yield number, entry


def prompt_of(entry: dict[str, Any], place: str) -> str | list[int]:
    """The `text` or the `ids` of an object, whichever it has; raises LiveError."""
    text, ids = entry.get("text"), entry.get("ids")
    if (text is None) == (ids is None):
        raise LiveError(f"{place} must have either text or ids")
    if text is not None:
        if not isinstance(text, str):
            raise LiveError(f"{place}: text must be a string")
        return text
    if not isinstance(ids, list) or not all(type(token) is int for token in ids):
        raise LiveError(f"{place}: ids must be a list of whole numbers")
    return ids


class Tokeniser:
    """The model's own tokenizer, loaded when the first text comes; token ids pass through."""

    def __init__(self, model: ModelFacts) -> None:
        self._model = model
        self._tokenizer: Any = None

    def __call__(self, prompt: str | list[int], *, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a prompt, as the server would."""
        if isinstance(prompt, list):
            return prompt
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(str(self._model.folder))
            except (OSError, ValueError) as error:
                first = str(error).strip().splitlines()[0]
                raise LiveError(f"no tokenizer could be loaded from {self._model.name}: {first}") from None
        ids = self._tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"]
        return [int(token) for token in ids]


def check_ids(ids: list[int], place: str, model: ModelFacts) -> None:
    """Refuse token ids that the model does not have, and more of them than it can take."""
    if ids and not (min(ids) >= 0 and max(ids) < model.vocabulary):
        raise LiveError(f"{place} holds token ids outside 0..{model.vocabulary - 1}")
    if model.context is not None and len(ids) > model.context:
        raise LiveError(f"{place} has {len(ids)} tokens but the model takes {model.context}: cut it, or give a length")


def _checked(ids: list[int], place: str, model: ModelFacts) -> tuple[int, ...]:
    check_ids(ids, place, model)
    if len(ids) <= model.top_k:
        raise LiveError(
            f"{place} has {len(ids)} tokens but the model selects {model.top_k}: give sequences that are longer"
        )
    return tuple(ids)


def _values(path: Path, content: bytes) -> Iterator[tuple[int, str | list[int]]]:
    for number, entry in objects(path, content):
        yield number, prompt_of(entry, f"{path.name} line {number}")


def _cached(cache: Path | None, key: str) -> tuple[tuple[int, ...], ...] | None:
    if cache is None:
        return None
    try:
        kept = json.loads(cache.read_text())
        return tuple(map(tuple, kept["ids"])) if kept["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: it is made again
