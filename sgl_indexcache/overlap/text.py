"""Text for the overlap: windows of given lengths from a plain text file or from JSON lines."""

from collections.abc import Sequence
from pathlib import Path

from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.sequences import Tokeniser, check_ids, objects, prompt_of, read_bytes
from sgl_indexcache.overlap.errors import OverlapError


def windows(path: Path, model: ModelFacts, lengths: Sequence[int], samples: int) -> dict[int, list[list[int]]]:
    """Up to `samples` token sequences of every length.

    A .jsonl file (`{"text": ...}` or `{"ids": ...}`) gives the beginnings of its sequences that are long enough;
    any other file is one text, cut into windows that follow one another.

    Raises:
        LiveError: the file cannot be used.
        OverlapError: it is too short for a length, or a length for the model.
    """
    documents = _documents(path, model)
    result: dict[int, list[list[int]]] = {}
    for length in sorted(set(lengths)):
        if length <= model.top_k:
            raise OverlapError(f"length {length} is not longer than a selection of {model.top_k} tokens: choose more")
        if path.suffix == ".jsonl":
            cut = [ids[:length] for ids in documents if len(ids) >= length]
        else:
            starts = range(0, len(documents[0]) - length + 1, length)
            cut = [documents[0][start : start + length] for start in starts]
        if not cut:
            longest = max(map(len, documents), default=0)
            raise OverlapError(f"{path.name} holds no sequence of {length} tokens (the longest has {longest})")
        for ids in cut[:samples]:
            check_ids(ids, path.name, model)
        result[length] = cut[:samples]
    return result


def _documents(path: Path, model: ModelFacts) -> list[list[int]]:
    content, tokenise = read_bytes(path), Tokeniser(model)
    if path.suffix == ".jsonl":
        entries = objects(path, content)
        return [tokenise(prompt_of(entry, f"{path.name} line {number}")) for number, entry in entries]
    return [tokenise(content.decode(errors="replace"))]
