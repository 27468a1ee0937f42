"""Conversations in the form the nano model was trained on: facts told early, tool outputs, questions later.

for turn in demo_dialogue(seed=0):
    # append turn.messages, then ask turn.question as the user; the model should say turn.answer
"""

import random
from dataclasses import dataclass

from sgl_indexcache.nano.phrases import KEY_STYLES, VALUE_LENGTH

SYSTEM = "You answer from the records that the tools return."
STATEMENTS = (
    "The code of {key} is {value}.",
    "The order number of {key} is {value}.",
    '{{"name": "{key}", "value": {value}}}',
)
"""How a fact of each kind is told: the first kind by the user, the others as a line of a tool's output."""
QUESTIONS = ("What is the code of {key}?", "What is the order number of {key}?", "Which value has {key}?")
ANSWERS = ("The code of {key} is {value}.", "The order number of {key} is {value}.", "The value of {key} is {value}.")

_TOOLS = ("search", "index", "fetch", "parse", "build", "upload", "verify", "archive")
_THINGS = ("table", "manual", "invoice", "parcel", "record", "backup", "report", "image")
_ENDINGS = ("done", "no change", "two warnings", "skipped, as it was up to date", "queued again", "checked by hand")


@dataclass(frozen=True, slots=True)
class Fact:
    """A key, its value of five digits, and the kind of its phrases (an index of STATEMENTS)."""

    key: str
    value: str
    kind: int

    def say(self, templates: tuple[str, ...]) -> str:
        return templates[self.kind].format(key=self.key, value=self.value)


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """What comes before a question, the question, and the right answer.

    messages  role and content each, to be appended to the conversation before the question
    question  content of the user's next message
    answer    what the assistant should say, up to the end of its message
    value     the five digits within the answer
    distance  bytes between the fact and the question, both messages' own markup included
    """

    messages: tuple[dict[str, str], ...]
    question: str
    answer: str
    value: str
    distance: int


def demo_dialogue(seed: int = 0, questions: int = 4, tool_bytes: int = 800) -> list[DialogueTurn]:
    """A growing conversation with one question a turn, each about a fact told before the previous turn's end.

    The facts all stand in what precedes the first question; every further turn adds a tool's output that no
    question is about, so the facts move further back. Facts outnumber the questions by two, as distractors.

    seed        decides keys, values and texts
    questions   number of turns
    tool_bytes  size of a tool's output, about; the first is twice as long
    """
    draw = random.Random(f"dialogue {seed}")
    facts = [_fact(draw, number % len(STATEMENTS)) for number in range(questions + 2)]
    from_user = [fact for fact in facts if fact.kind == 0]
    listed = [fact for fact in facts if fact.kind]
    opening = [{"role": "system", "content": SYSTEM}]
    for fact in from_user:
        opening += [{"role": "user", "content": fact.say(STATEMENTS)}, {"role": "assistant", "content": "Noted."}]
    opening.append({"role": "tool", "content": _log(draw, 2 * tool_bytes, listed)})
    turns: list[DialogueTurn] = []
    text = ""
    added = opening
    for fact in draw.sample(facts, questions):
        text += "".join(f"<{message['role']}\n{message['content']}>" for message in added)
        distance = len(text) - text.rindex(fact.say(STATEMENTS))
        question, answer = fact.say(QUESTIONS), fact.say(ANSWERS)
        turns.append(DialogueTurn(tuple(added), question, answer, fact.value, distance))
        text += f"<user\n{question}><assistant\n{answer}>"
        added = [{"role": "tool", "content": _log(draw, tool_bytes, [])}]
    return turns


def render(messages: list[dict[str, str]]) -> str:
    """The prompt text for the assistant's next message, as the checkpoint's chat template writes it."""
    turns = "".join(f"<s>{message['role']}\n{message['content']}</s>" for message in messages)
    return f"{turns}<s>assistant\n"


def _fact(draw: random.Random, kind: int) -> Fact:
    style = draw.choice(KEY_STYLES)
    key = "".join(draw.choice(letters) for letters in style)
    return Fact(key, "".join(draw.choices("0123456789", k=VALUE_LENGTH)), kind)


def _log(draw: random.Random, size: int, facts: list[Fact]) -> str:
    """Lines of a tool's log, about `size` bytes, with the statements of the facts between them."""
    lines: list[str] = []
    length = 0
    while length < size:
        minute = len(lines)
        lines.append(
            f"{8 + minute // 60:02d}:{minute % 60:02d} {draw.choice(_TOOLS)}: {draw.choice(_THINGS)} "
            f"{draw.randrange(1000):03d} of {draw.choice(_THINGS)} {draw.randrange(100):02d}: {draw.choice(_ENDINGS)}."
        )
        length += len(lines[-1]) + 1
    places = sorted(draw.sample(range(1, len(lines)), len(facts)), reverse=True)
    for place, fact in zip(places, facts, strict=True):
        lines.insert(place, f"\n{fact.say(STATEMENTS)}\n")
    return "\n".join(lines) + "\n"
