"""Needle tasks: prompts whose continuation must be a known answer."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgl_indexcache.live.engine import Engine, Generation
from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.sequences import Tokeniser, check_ids, objects, prompt_of, read_bytes

_SLACK = 4
"""Tokens generated beyond a text answer: its tokenisation after the prompt may be another, longer one."""


@dataclass(frozen=True, slots=True)
class Needle:
    """A task. `ids`: the prompt; `answer`: text or token ids that the continuation begins with."""

    ids: list[int]
    answer: str | list[int]
    new_tokens: int

    def solved(self, output: Generation) -> bool:
        """Whether the output begins with the answer; white space around a text answer does not count."""
        if isinstance(self.answer, list):
            return output.ids[: len(self.answer)] == self.answer
        return output.text.strip().startswith(self.answer.strip())

    def ask(self, engine: Engine) -> bool:
        """Ask an engine, greedily."""
        return self.solved(engine.generate(self.ids, self.new_tokens))


@dataclass(frozen=True, slots=True)
class Needles:
    """A fixed set of tasks; `name`: the file's name."""

    name: str
    tasks: list[Needle]

    def described(self) -> dict[str, Any]:
        """For reports."""
        content = json.dumps([(task.ids, task.answer) for task in self.tasks]).encode()
        return {
            "file": self.name,
            "fingerprint": hashlib.sha256(content).hexdigest()[:16],
            "tasks": len(self.tasks),
        }


def read_needles(path: Path, model: ModelFacts) -> Needles:
    """Read JSON lines, each with `text` or `ids`, and `answer`: a string or token ids.

    Raises:
        LiveError: the file is missing or empty, or a line cannot be used.
    """
    tokenise = Tokeniser(model)
    tasks = []
    for number, entry in objects(path, read_bytes(path)):
        place = f"{path.name} line {number}"
        ids = tokenise(prompt_of(entry, place))
        check_ids(ids, place, model)
        answer = entry.get("answer")
        if isinstance(answer, str) and answer.strip():
            new_tokens = len(tokenise(answer, special=False)) + _SLACK
        elif isinstance(answer, list) and answer and all(type(token) is int for token in answer):
            new_tokens = len(answer)
        else:
            raise LiveError(f"{place}: answer must be a text or a list of token ids, and not empty")
        tasks.append(Needle(ids, answer, new_tokens))
    if not tasks:
        raise LiveError(f"{path} holds no tasks: write one JSON object a line, with text or ids, and answer")
    return Needles(path.name, tasks)
