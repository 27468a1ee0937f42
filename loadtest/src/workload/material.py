"""Fills pieces with content of a given length: raw token ids, or words, counted with the target's tokenizer."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sgl_indexcache.loadtest.errors import OptionError, WorkloadError
from sgl_indexcache.loadtest.workload.plan import Piece

SALT_TOKENS = 16
CHARS_PER_TOKEN = 4.0
SAFE_IDS = (32, 256)
"""Ids that every vocabulary we know has and gives no special meaning."""
_SYLLABLES = ["ka", "lo", "mi", "ne", "ru", "sa", "to", "vi", "be", "da", "fu", "go", "hi", "je", "pa", "qu"]
_WORDS = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in ("", "n", "r", "s")]


class Material(Protocol):
    """Makes pieces. The same generator state gives the same piece."""

    exact: bool
    """whether the token counts of its pieces are exact"""

    def make(self, role: str, tokens: int, rng: np.random.Generator) -> Piece:
        """A piece of `tokens` tokens of random content."""

    def quote(self, role: str, text: str) -> Piece:
        """A piece that holds exactly this text. Raises WorkloadError when that needs a tokenizer."""

    def salt(self, text: str) -> Piece:
        """A short system piece that depends on `text` alone."""


class Tokens:
    """The target's tokenizer, from the tokenizer.json of a model folder."""

    def __init__(self, folder: Path) -> None:
        """Raises OptionError: no such file, or the `tokenizers` package is not installed."""
        path = folder / "tokenizer.json" if folder.is_dir() else folder
        if not path.is_file():
            raise OptionError(f"{folder} holds no tokenizer.json: give the model's folder to --tokenizer")
        try:
            from tokenizers import Tokenizer  # type: ignore[import-untyped]
        except ImportError:
            raise OptionError("--tokenizer needs a package: pip install tokenizers") from None
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise OptionError(f"{path} is no tokenizer file: {str(error).splitlines()[0]}") from None

    @property
    def size(self) -> int:
        """Ids below it exist."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


class IdMaterial:
    """Random token ids in [low, high); text only with a tokenizer."""

    exact = True

    def __init__(self, low: int, high: int, tokens: Tokens | None = None) -> None:
        if not 0 <= low < high <= 1 << 31:
            raise OptionError(f"--token-range {low}:{high} is empty: write it like 32:256")
        self._low, self._high, self._tokens = low, high, tokens

    def make(self, role: str, tokens: int, rng: np.random.Generator) -> Piece:
        return Piece(role, tokens, ids=rng.integers(self._low, self._high, tokens, dtype=np.int32))

    def quote(self, role: str, text: str) -> Piece:
        if self._tokens is None:
            raise WorkloadError("text cannot be sent as token ids without the target's tokenizer: add --tokenizer")
        ids = np.array(self._tokens.encode(text), dtype=np.int32)
        return Piece(role, len(ids), ids=ids)

    def salt(self, text: str) -> Piece:
        return self.make("system", SALT_TOKENS, _seeded(text))


class TextMaterial:
    """Random words; lengths are exact with a tokenizer, else estimated at `chars` characters a token."""

    def __init__(self, tokens: Tokens | None = None, chars: float = CHARS_PER_TOKEN) -> None:
        self._tokens, self._chars = tokens, chars
        self.exact = tokens is not None

    def make(self, role: str, tokens: int, rng: np.random.Generator) -> Piece:
        # Never shorter than one token a character; cut back below.
        text = _words(rng, max(8, int(tokens * (self._chars if self._tokens is None else 8.0)) + 8))
        if self._tokens is None:
            return Piece(role, tokens, text=text[: max(1, int(tokens * self._chars))] if tokens else "")
        text = self._tokens.decode(self._tokens.encode(text)[:tokens]) if tokens else ""
        return Piece(role, tokens, text=text)

    def quote(self, role: str, text: str) -> Piece:
        if self._tokens is not None:
            return Piece(role, len(self._tokens.encode(text)), text=text)
        return Piece(role, -(-len(text) // int(self._chars)), text=text)

    def salt(self, text: str) -> Piece:
        return self.quote("system", hashlib.sha256(text.encode()).hexdigest()[:SALT_TOKENS] + "\n")


def id_range(text: str | None, tokens: Tokens | None) -> tuple[int, int]:
    """`low:high` of `--token-range`; without it the tokenizer's vocabulary, without that SAFE_IDS."""
    if text is None:
        return SAFE_IDS if tokens is None else (0, tokens.size)
    low, colon, high = text.partition(":")
    if not colon or not low.isdecimal() or not high.isdecimal():
        raise OptionError(f"--token-range {text!r} is no range: write it like 32:256")
    return int(low), int(high)


def _seeded(text: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def _words(rng: np.random.Generator, characters: int) -> str:
    picks = rng.integers(0, len(_WORDS), characters // 5 + 2)
    return " ".join(_WORDS[pick] for pick in picks)[:characters]
