"""What the generator and the traces produce, and the driver plays: sessions of turns of pieces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Class = Literal["cold", "warm", "repeat"]
WARM_SHARE = 0.5
"""A request is warm when at least this share of its prompt was sent before, cold otherwise."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A message: either text or token ids; `tokens` is its length, exact or estimated."""

    role: str
    tokens: int
    text: str | None = None
    ids: Ids | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request of a session, and what follows it.

    new            pieces appended to the history before it is sent
    output_tokens  asked for, exactly where the server allows it
    reply          appended to the history afterwards (None with actual replies)
    think_s        from the end of the answer before (or the session's start) to this turn's intended send
    n              samples asked for in one request
    repeats        times that the same prompt is sent again after the answer
    children       sub-agents; played at once after the answer, the next turn waits for them
    """

    new: tuple[Piece, ...]
    output_tokens: int
    reply: Piece | None
    think_s: float = 0.0
    n: int = 1
    repeats: int = 0
    children: tuple["Session", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Turns on one growing prefix.

    id            unique in a run
    prefix        pieces before the first turn; for a sub-agent the driver puts its parent's history before it
    turns         at least one
    sent_before   leading tokens that an earlier request of the run has sent, as far as planned
    start_s       when a trace says that it starts, seconds from the trace's begin; None: the shape decides
    index         number in the generator's order, to find it again
    """

    id: str
    prefix: tuple[Piece, ...]
    turns: tuple[Turn, ...]
    sent_before: int = 0
    start_s: float | None = None
    index: int = 0

    def request_count(self) -> int:
        """Requests that a run without failures sends for it, with sub-agents and repeats."""
        return sum(1 + turn.repeats + sum(child.request_count() for child in turn.children) for turn in self.turns)


def length(pieces: Sequence[Piece]) -> int:
    """Tokens of all pieces."""
    return sum(piece.tokens for piece in pieces)


def classify(prompt_tokens: int, sent_before: int) -> Class:
    """The class of a request whose first `sent_before` prompt tokens were sent before in this run."""
    if prompt_tokens > 0 and sent_before >= prompt_tokens:
        return "repeat"
    return "warm" if sent_before > 0 and sent_before >= WARM_SHARE * prompt_tokens else "cold"
