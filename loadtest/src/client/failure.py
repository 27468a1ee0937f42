"""From an exception or an HTTP status to a kind of failure."""

import asyncio

import aiohttp

from sgl_indexcache.loadtest.client.dialect import BadEventError, ServerReportedError
from sgl_indexcache.loadtest.client.sse import EventTooLargeError
from sgl_indexcache.loadtest.measure.record import LONGEST_ERROR, Status

FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError, BadEventError, ServerReportedError, EventTooLargeError)
"""What sending a request may raise, besides defects of ours."""


def kind_of(error: BaseException, *, answered: bool) -> Status:
    """The kind of a FAILURES exception. `answered`: the response's head had come."""
    if isinstance(error, ServerReportedError):
        return "error_event"
    if isinstance(error, (BadEventError, EventTooLargeError)):
        return "bad_event"
    if isinstance(error, asyncio.TimeoutError):
        return "timeout"
    if answered:
        return "broken"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "refused" if isinstance(error.os_error, ConnectionRefusedError) else "connect"
    if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)):
        return "disconnected"
    return "connect" if isinstance(error, OSError) else "disconnected"


def kind_of_status(status: int) -> Status:
    """The kind of an HTTP status other than 200."""
    if 400 <= status < 500:
        return "http_4xx"
    return "http_5xx" if 500 <= status < 600 else "http_other"


def brief(text: object) -> str:
    """A message in one printable line of bounded length."""
    line = " ".join(str(text).split())
    return "".join(mark if mark.isprintable() else "?" for mark in line)[:LONGEST_ERROR]
