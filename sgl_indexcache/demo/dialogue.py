"""The demo's conversation: facts planted far back in tool output, and questions about them.

Its phrases are those the nano model was trained on (nano/phrases.py); keys, values and places are drawn by a seed,
and the text between them is this project's licence, which the model has not seen in training as a dialogue.
"""

import random
from dataclasses import dataclass
from pathlib import Path

MESSAGES = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A turn: messages that come before it (role, content), what the user asks, and the value that answers it."""

    before: MESSAGES
    ask: str
    value: str


def filler(length: int, start: int = 0) -> str:
    """`length` characters of running English text."""
    text = (Path(__file__).parent / "filler.txt").read_text()
    return (text * (1 + (start + length) // len(text)))[start : start + length]


def dialogue(seed: int, length: int) -> list[Question]:
    """Four turns over one growing conversation that begins with about `length` characters of tool output."""
    rng = random.Random(seed)

    def name() -> str:
        return "".join(
            rng.choice("bdfghjklmnprstvwz" if place % 2 == 0 else "aeiou") for place in range(6)
        ).capitalize()

    def number() -> str:
        return str(rng.randrange(10_000, 100_000))

    code, order, record = (name(), number()), (name(), number()), (name(), number())
    third = length // 3
    output = (
        filler(third)
        + f"\nThe order number of {order[0]} is {order[1]}.\n"
        + filler(third, third)
        + f'\n{{"name": "{record[0]}", "value": {record[1]}}}\n'
        + filler(third, 2 * third)
    )
    opening: MESSAGES = (
        ("user", f"The code of {code[0]} is {code[1]}."),
        ("assistant", "Noted."),
        ("tool", output),
    )
    return [
        Question(opening, f"What is the code of {code[0]}?", code[1]),
        Question((("tool", filler(300, length)),), f"What is the order number of {order[0]}?", order[1]),
        Question((("tool", filler(300, length + 300)),), f"Which value has {record[0]}?", record[1]),
        Question((("tool", filler(60, length + 600)),), f"What is the code of {code[0]}?", code[1]),
    ]
