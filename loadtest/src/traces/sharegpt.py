"""ShareGPT conversations: JSON list or JSONL of `{"conversations": [{"from": "human", "value": ...}, ...]}`.

`conversation`, `role`/`content` and OpenAI's `messages` are taken, too. What the assistant said is not asked
for again word by word: its length is, and its text stands in the next turn's history.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgl_indexcache.loadtest.errors import TraceError
from sgl_indexcache.loadtest.traces.reading import (
    LONGEST_INPUT,
    LONGEST_OUTPUT,
    Where,
    as_object,
    json_lines,
    kind,
    parse,
    text,
)
from sgl_indexcache.loadtest.workload.material import Material
from sgl_indexcache.loadtest.workload.plan import Piece, Session, Turn, length

_ROLES = {
    "human": "user", "user": "user", "tool": "user", "observation": "user", "function": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
Conversation = list[tuple[str, str]]
"""Messages as (role, text), roles user, assistant and system."""


def read(path: Path) -> list[Conversation]:
    """Every conversation that asks and answers at least once.

    Raises:
        TraceError: a conversation is refused; names its line (JSONL) or number (list) and the reason.
    """
    with path.open("rb") as file:
        head = file.read(4096).lstrip()
    records = _listed(path) if head.startswith(b"[") else json_lines(path)
    conversations = [conversation for where, record in records if (conversation := _conversation(record, where))]
    if not conversations:
        raise TraceError(f"{path.name} holds no conversation with a question and an answer: nothing can be sent")
    return conversations


def _listed(path: Path) -> Iterator[tuple[Where, dict[str, Any]]]:
    whole = Where(path, "")
    data = parse(path.read_bytes(), whole)
    if not isinstance(data, list):
        raise whole.refuse("a list of conversations is needed")
    for number, record in enumerate(data, 1):
        where = Where(path, f"conversation {number}")
        yield where, as_object(record, where)


def _conversation(record: dict[str, Any], where: Where) -> Conversation:
    for key in ("conversations", "conversation", "messages"):
        if key in record:
            messages = record[key]
            break
    else:
        raise where.refuse("conversations is missing")
    if not isinstance(messages, list):
        raise where.refuse(f"{key} must be a list, it is {kind(messages)}")
    turns: Conversation = []
    for message in messages:
        item = as_object(message, where)
        name = text(item, ("from", "role"), where)
        if name not in _ROLES:
            raise where.refuse(f"the role {name[:30]!r} is unknown")
        turns.append((_ROLES[name], text(item, ("value", "content"), where)))
    # Datasets begin with stray answers and end with unanswered questions: both have nothing to measure.
    while turns and turns[0][0] == "assistant":
        turns.pop(0)
    while turns and turns[-1][0] != "assistant":
        turns.pop()
    return turns


def sessions(conversations: list[Conversation], material: Material, salt: Piece | None) -> Iterator[Session]:
    """One session a conversation, one turn an answer."""
    for index, conversation in enumerate(conversations):
        turns: list[Turn] = []
        new: list[Piece] = []
        total = 0
        for role, said in conversation:
            piece = material.quote(role, said)
            if role != "assistant":
                new.append(piece)
            elif new:
                total += length(new) + piece.tokens
                turns.append(Turn(new=tuple(new), output_tokens=max(1, piece.tokens), reply=piece))
                new = []
            elif turns and turns[-1].reply is not None:
                new.append(piece)  # a second answer in a row becomes part of the next question
        if total > LONGEST_INPUT or any(turn.output_tokens > LONGEST_OUTPUT for turn in turns):
            raise TraceError(f"conversation {index + 1} is longer than {LONGEST_INPUT} tokens: remove it")
        prefix = (salt,) if salt is not None else ()
        yield Session(id=f"{index}", prefix=prefix, turns=tuple(turns), index=index)
