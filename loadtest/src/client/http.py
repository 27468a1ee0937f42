"""Sends one request and fills its record. Thousands may be under way in one event loop."""

import asyncio
from array import array
from collections.abc import Callable

import aiohttp
import msgspec

from sgl_indexcache.loadtest.client.dialect import Dialect, Reader
from sgl_indexcache.loadtest.client.failure import FAILURES, brief, kind_of, kind_of_status
from sgl_indexcache.loadtest.client.sse import SseParser
from sgl_indexcache.loadtest.measure.record import Record

_DONE = b"[DONE]"


class Answer:
    """What the driver learns besides the record: gaps between tokens in seconds, and the reply if it was kept."""

    __slots__ = ("gaps", "reply_ids", "reply_text")

    def __init__(self) -> None:
        self.gaps: array[float] = array("d")
        self.reply_text = ""
        self.reply_ids: list[int] | None = None


class Client:
    """An HTTP client for one API of one server; use as an async context manager.

    now      seconds on the run's clock
    timeout  seconds for a whole request
    tokens   called with (now, count) when tokens arrive
    """

    def __init__(
        self, url: str, dialect: Dialect, now: Callable[[], float], timeout: float,
        headers: dict[str, str] | None = None,
        tokens: Callable[[float, int], None] = lambda now, count: None,
    ) -> None:  # fmt: skip
        self._url = url.rstrip("/") + dialect.path
        self.dialect = dialect
        self.now, self._timeout, self._tokens = now, timeout, tokens
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        # No limit on connections, or requests would wait unseen. Idle ones go before servers drop them (5 s).
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=2)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 16,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(self, body: bytes, record: Record, keep_reply: bool = False) -> Answer:
        """Send `body` now and fill `record`; never raises for a failure of the server.

        Raises:
            asyncio.CancelledError: after the record was marked `cancelled`.
        """
        answer = Answer()
        reader = self.dialect.reader(keep_reply)
        answered = False
        record.sent = self.now()
        try:
            async with asyncio.timeout(self._timeout):
                assert self._session is not None
                async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                    answered = True
                    record.http = response.status
                    if response.status != 200:
                        record.status = kind_of_status(response.status)
                        record.error = brief((await response.content.read(2000)).decode(errors="replace"))
                    else:
                        done = await self._read(response, reader, record, answer)
                        _judge(record, reader, done)
        except FAILURES as error:
            record.status = kind_of(error, answered=answered)
            record.error = brief(f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            record.status = "cancelled"
            raise
        finally:
            record.end = self.now()
            record.prompt, record.cached, record.output = reader.prompt, reader.cached, reader.output
            answer.reply_text, answer.reply_ids = reader.reply_text, reader.reply_ids
        return answer

    async def _read(self, response: aiohttp.ClientResponse, reader: Reader, record: Record, answer: Answer) -> bool:
        parser = SseParser()
        gaps = answer.gaps
        done = False
        async for chunk in response.content.iter_any():
            now = self.now()
            count = 0
            for data in parser.feed(chunk):
                if data == _DONE:
                    done = True
                else:
                    count += reader.feed(data)
            if not count:
                continue
            self._tokens(now, count)
            record.events += count
            if record.first is None or record.last is None:
                # What comes with the first token was not waited for: a gap of 0 each.
                record.first = record.last = now
                count -= 1
            gap = now - record.last
            record.last = now
            if not count:
                continue
            if record.itl_max is None or gap > record.itl_max:
                record.itl_max = gap
            # Tokens that come together share their gap, as other tools count them; with several samples the
            # gap between two arrivals is nobody's.
            if record.n > 1:
                continue
            if count == 1:
                gaps.append(gap)
            else:
                gaps.extend([gap / count] * count)
        return done


def _judge(record: Record, reader: Reader, done: bool) -> None:
    if reader.aborted:
        record.status = "aborted"
    elif not done or reader.finished < record.n:
        record.status = "truncated"
        record.error = "no [DONE]" if not done else f"{reader.finished} of {record.n} samples finished"
    elif not record.events:
        record.status = "empty"


def encode(body: object) -> bytes:
    """The JSON of a request body."""
    return msgspec.json.encode(body)
