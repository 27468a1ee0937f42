"""What the three APIs have in common: a body to send, and a reader of the events that come back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sgl_indexcache.loadtest.workload.plan import Piece


class BadEventError(Exception):
    """An event that is not what the API promises."""


class ServerReportedError(Exception):
    """The server reports an error inside the stream."""


@dataclass(frozen=True, slots=True)
class BodyOptions:
    """What every request of a run has in common.

    model       name, for the OpenAI APIs
    plain       send only what OpenAI's own API knows: no ignore_eos, no running token counts
    ignore_eos  generate exactly the tokens asked for
    extra       keys that go over the body
    """

    model: str = "default"
    plain: bool = False
    ignore_eos: bool = True
    temperature: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


class Reader(ABC):
    """The state of one answer. Subclasses read events; token counts are None where the server gives none."""

    __slots__ = ("aborted", "cached", "finished", "output", "prompt", "reply_ids", "reply_text")

    def __init__(self) -> None:
        self.prompt: int | None = None
        self.cached: int | None = None
        self.output: int | None = None
        self.finished = 0
        """samples whose end was reported"""
        self.aborted = False
        self.reply_text = ""
        self.reply_ids: list[int] | None = None

    @abstractmethod
    def feed(self, data: bytes) -> int:
        """Read one event; returns how many tokens came with it.

        Raises:
            BadEventError, ServerReportedError
        """


class Dialect(Protocol):
    """One API."""

    path: str

    def body(self, prompt: Sequence[Piece], output_tokens: int, n: int) -> dict[str, Any]:
        """The request's JSON body."""

    def reader(self, keep_reply: bool) -> Reader:
        """A fresh reader; `keep_reply`: collect the answer for the next turn."""


def joined_ids(prompt: Sequence[Piece]) -> list[int]:
    """The token ids of all pieces in a row."""
    ids: list[int] = []
    for piece in prompt:
        assert piece.ids is not None
        ids += piece.ids.tolist()
    return ids


def joined_text(prompt: Sequence[Piece]) -> str:
    """The text of all pieces in a row, one per line."""
    return "\n".join(piece.text or "" for piece in prompt)
