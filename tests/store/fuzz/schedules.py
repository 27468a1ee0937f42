"""Random multi-turn schedules, the same for every engine that they are put to.

A schedule is a list of steps; the requests of a step are admitted together. What a request asks depends on answers
to earlier ones, so a schedule is walked: `walk` yields a step, and is sent its outputs.
"""

from collections.abc import Generator
from dataclasses import dataclass
from random import Random

TOKENS = 256
LONGEST = 420
# Mostly short, sometimes over the end of a page and the next: decoding takes most of the time.
ANSWERS = (1, 2, 3, 5, 8, 19, 34)


@dataclass(frozen=True, slots=True)
class Request:
    """One request: prompt, number of tokens to generate, tenant, and tokens whose logits are raised.

    Raised logits make samples of one prompt differ without a random generator, whose state two engines would not
    share: a scheduler may run a forward more or fewer, depending on when a request arrives.
    """

    tokens: list[int]
    new_tokens: int
    salt: str | None = None
    raised: tuple[int, ...] = ()


Outputs = list[list[int]]
Steps = Generator[list[Request], Outputs, None]


def walk(seed: int) -> Steps:
    """The steps of one schedule: conversations that go on, are repeated, retried, sampled and shared."""
    draw = Random(seed)
    system = _words(draw, draw.choice([0, 40, 64, 100, 130]))
    talks: list[list[int]] = [system + _words(draw, draw.randint(1, 90)) for _ in range(draw.randint(1, 3))]
    salts = [draw.choice([None, None, "a", "b"]) for _ in talks]
    for _ in range(draw.randint(2, 4)):
        kind = draw.choice(["turn", "turn", "repeat", "retry", "sample", "tenants"])
        which = draw.sample(range(len(talks)), draw.randint(1, len(talks)))
        if kind in ("turn", "repeat"):
            outputs = yield [Request(talks[i], draw.choice(ANSWERS), salt=salts[i]) for i in which]
            if kind == "repeat":
                yield [Request(talks[i], draw.randint(1, 5), salt=salts[i]) for i in which]
            for i, output in zip(which, outputs, strict=True):
                talks[i] = talks[i] + output + _words(draw, draw.randint(1, 60))
        elif kind == "retry":  # other words after the same beginning, cut anywhere
            cut = draw.randint(1, len(talks[which[0]]))
            tokens = talks[which[0]][:cut] + _words(draw, draw.randint(0, 20))
            yield [Request(tokens, draw.randint(1, 8), salt=salts[which[0]])]
            yield [Request(tokens, draw.randint(1, 8), salt=salts[which[0]])]
        elif kind == "sample":
            one = Request(talks[which[0]], 1, salt=salts[which[0]])
            yield [one]
            raised = [tuple(_words(draw, 20)) for _ in range(draw.randint(2, 4))]
            yield [Request(one.tokens, draw.randint(2, 9), one.salt, tokens) for tokens in raised]
        else:  # the same words from other tenants
            yield [Request(talks[which[0]], draw.randint(1, 6), salt=salt) for salt in (None, "a", "b")]
        talks = [talk[-LONGEST:] if len(talk) > LONGEST else talk for talk in talks]


def _words(draw: Random, count: int) -> list[int]:
    return [draw.randrange(TOKENS) for _ in range(count)]


def again(steps: Steps, times: int) -> Steps:
    """The same steps; one with a single request is asked `times` times, and goes on from the last answer."""
    step = next(steps)
    while True:
        for _ in range(times if len(step) == 1 else 1):
            outputs = yield step
        try:
            step = steps.send(outputs)
        except StopIteration:
            return
