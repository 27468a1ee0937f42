"""Plays one session: turns in order on a growing history, repeats, and sub-agents at once."""

import asyncio
from array import array
from collections.abc import Callable
from itertools import count

import numpy as np

from sgl_indexcache.loadtest.client.http import Answer, Client, encode
from sgl_indexcache.loadtest.drive.gate import Gate
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.workload.plan import Piece, Session, Turn, classify, length

Sink = Callable[[Record, "array[float]"], None]
_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0
# Sending these again cannot help; 429 is the one client error that passes.
_FINAL = {"http_4xx", "bad_event", "cancelled"}


class Player:
    """Sends the requests of sessions through a gate; every attempt goes to `sink`.

    sent     called with the time of every send
    retries  most further attempts of a failed request
    speed    think times are divided by it
    """

    def __init__(
        self, client: Client, gate: Gate, sink: Sink, stage: int = 0, retries: int = 0, speed: float = 1.0,
        sent: Callable[[float], None] = lambda now: None, ids: "count[int] | None" = None,
    ) -> None:  # fmt: skip
        self._client, self._gate, self._sink = client, gate, sink
        self._stage, self._retries, self._speed = stage, retries, speed
        self._sent = sent
        self._ids = ids if ids is not None else count()
        self.skipped_turns = 0

    async def play(self, session: Session, start: float) -> None:
        """Play the whole session; its first request is intended at `start` on the run's clock."""
        await self._play(session, start, [], session.sent_before, branch=False, index=session.index)

    async def _play(
        self, session: Session, start: float, history: list[Piece], known: int, *, branch: bool, index: int
    ) -> float:
        """Returns when the last answer ended. `history` is owned by this call."""
        history += session.prefix
        intended = start
        for number, turn in enumerate(session.turns):
            intended += turn.think_s / self._speed
            history += turn.new
            prompt = length(history)
            record = Record(
                id=-1, stage=self._stage, session=session.id, index=index, turn=number,
                kind="branch" if branch else "turn", planned=classify(prompt, known), intended=intended,
                context=prompt, new=prompt - min(known, prompt), asked=turn.output_tokens, n=turn.n,
            )  # fmt: skip
            # Made before its time, since a long prompt takes milliseconds to encode.
            body = encode(self._client.dialect.body(history, turn.output_tokens, turn.n))
            sent = await self._request(body, record, keep_reply=turn.reply is None)
            if sent is None or not sent[0].ok:
                if sent is not None:
                    self.skipped_turns += len(session.turns) - number - 1
                return intended if sent is None else sent[0].end
            done, answer = sent
            intended = done.end
            for _ in range(turn.repeats):
                again = _repeat(record, intended, prompt)
                repeated = await self._request(body, again, keep_reply=False)
                if repeated is None:
                    return intended
                intended = repeated[0].end
            del body
            known = prompt
            intended = await self._branch(turn, intended, history, known, index)
            history.append(turn.reply if turn.reply is not None else _reply(answer, done, history[0].ids is not None))
        return intended

    async def _branch(self, turn: Turn, now: float, history: list[Piece], known: int, index: int) -> float:
        if not turn.children or self._gate.stopped:
            return now
        branches = [self._play(child, now, list(history), known, branch=True, index=index) for child in turn.children]
        return max(now, *await asyncio.gather(*branches))

    async def _request(self, body: bytes, record: Record, keep_reply: bool) -> tuple[Record, Answer] | None:
        """Send at the intended time, with retries; the last attempt, or None when nothing may be sent."""
        if not await self._gate.sleep(record.intended - self._client.now()):
            return None
        if not await self._gate.enter():
            return None
        try:
            record.warmup = self._gate.is_warmup(record.intended)
            attempt = 0
            while True:
                answer = await self._attempt(body, record, keep_reply)
                final = record.status in _FINAL and record.http != 429
                if record.ok or final or attempt >= self._retries:
                    return record, answer
                attempt += 1
                pause = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2.0 ** (attempt - 1))
                if not await self._gate.sleep(pause):
                    return record, answer
                record = _fresh(record, attempt)
        finally:
            self._gate.leave()

    async def _attempt(self, body: bytes, record: Record, keep_reply: bool) -> Answer:
        record.id = next(self._ids)
        self._sent(self._client.now())
        answer = Answer()
        try:
            answer = await self._client.send(body, record, keep_reply)
        finally:
            self._sink(record, answer.gaps)
        return answer


def _fresh(record: Record, attempt: int) -> Record:
    """The same request, not sent yet."""
    return Record(
        id=-1, stage=record.stage, session=record.session, index=record.index, turn=record.turn,
        kind=record.kind, planned=record.planned, attempt=attempt, warmup=record.warmup,
        intended=record.intended, context=record.context, new=record.new, asked=record.asked, n=record.n,
    )  # fmt: skip


def _repeat(record: Record, intended: float, prompt: int) -> Record:
    again = _fresh(record, 0)
    again.kind, again.planned, again.new = "repeat", classify(prompt, prompt), 0
    again.intended = intended
    return again


def _reply(answer: Answer, record: Record, in_ids: bool) -> Piece:
    """The actual answer as a piece of history. `in_ids`: the prompt is of token ids, not text."""
    if in_ids:
        ids = np.array(answer.reply_ids or [], dtype=np.int32)
        return Piece("assistant", len(ids), ids=ids)
    return Piece("assistant", record.output or record.events, text=answer.reply_text)
