"""What is kept of one request, and the kinds of failure."""

from typing import Literal

import msgspec

Status = Literal[
    "ok", "refused", "connect", "timeout", "disconnected", "broken", "truncated", "http_4xx", "http_5xx",
    "http_other", "bad_event", "error_event", "aborted", "empty", "cancelled",
]  # fmt: skip
EXPLANATIONS: dict[str, str] = {
    "refused": "nobody listened on the port",
    "connect": "no connection: name not found, unreachable, TLS",
    "timeout": "no complete answer within the time-out",
    "disconnected": "the server closed the connection before it answered",
    "broken": "the connection broke inside the answer",
    "truncated": "the answer ended in good order, but before its last event",
    "http_4xx": "HTTP status 400 to 499",
    "http_5xx": "HTTP status 500 to 599",
    "http_other": "another HTTP status than 200",
    "bad_event": "an event that is not what the API promises",
    "error_event": "an error reported inside the stream",
    "aborted": "the server gave the request up",
    "empty": "a complete answer without a token",
    "cancelled": "stopped by us: second Ctrl-C, or the grace period was over",
}
LONGEST_ERROR = 200


class Record(msgspec.Struct, kw_only=True):
    """One attempt to send one request. Times are seconds on the run's monotonic clock, from its begin.

    id, stage, session, index, turn   which request: `index` is the session's number in the generator's order
    kind       turn, repeat or branch (a sub-agent's turn)
    planned    cold, warm or repeat, by what the plan has sent before
    attempt    0, or the number of the retry; a retry keeps the intended time of the first attempt
    intended   when the schedule wanted it sent; sent: when it was; first, last: first and last token; end: of
               the stream
    context    planned prompt tokens; new: those of them that no earlier request has sent
    asked      output tokens asked for, of each of n samples
    prompt, cached, output   tokens as counted by the server; None where it does not say
    events     token events received; itl_max: longest gap between two of them, seconds
    """

    id: int
    stage: int = 0
    session: str = ""
    index: int = 0
    turn: int = 0
    kind: Literal["turn", "repeat", "branch"] = "turn"
    planned: Literal["cold", "warm", "repeat"] = "cold"
    attempt: int = 0
    warmup: bool = False
    intended: float = 0.0
    sent: float = 0.0
    first: float | None = None
    last: float | None = None
    end: float = 0.0
    context: int = 0
    new: int = 0
    asked: int = 0
    n: int = 1
    prompt: int | None = None
    cached: int | None = None
    output: int | None = None
    events: int = 0
    itl_max: float | None = None
    status: Status = "ok"
    http: int | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def ttft(self) -> float | None:
        """Seconds from the actual send to the first token."""
        return None if self.first is None else self.first - self.sent

    @property
    def ttft_intended(self) -> float | None:
        """Seconds from the intended send to the first token: what a user who does not wait for us sees."""
        return None if self.first is None else self.first - self.intended

    @property
    def e2e(self) -> float:
        """Seconds from the actual send to the end of the stream."""
        return self.end - self.sent

    @property
    def e2e_intended(self) -> float:
        """Seconds from the intended send to the end of the stream."""
        return self.end - self.intended

    @property
    def queueing(self) -> float:
        """Seconds that the request waited on our side: for its slot, or for a busy event loop."""
        return self.sent - self.intended

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first, of one sample; None below two tokens."""
        tokens = (self.output if self.output is not None else self.events) / max(1, self.n)
        if self.first is None or self.last is None or tokens <= 1:
            return None
        return (self.last - self.first) / (tokens - 1)


LATENCIES = ("ttft", "ttft_intended", "e2e", "e2e_intended", "tpot", "queueing")
"""Properties of a Record that are durations."""
METRICS = (*LATENCIES, "itl")
"""What a group has distributions of."""
