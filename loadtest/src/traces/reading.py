"""Reading foreign JSON with limits: every refusal names the file, the line and the reason."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sgl_indexcache.loadtest.errors import TraceError

LONGEST_LINE = 64 << 20
LARGEST_FILE = 2 << 30
MAX_REQUESTS = 5_000_000
LONGEST_INPUT = 10_000_000
LONGEST_OUTPUT = 1_000_000
LATEST_S = 366 * 86400.0


class Where:
    """A place in a trace, for error sentences."""

    def __init__(self, path: Path, place: str) -> None:
        self._path, self._place = path, place

    def refuse(self, reason: str) -> TraceError:
        """The error to raise; nothing has been sent."""
        return TraceError(f"{self._path.name} {self._place}: {reason}; nothing was sent, mend or remove it")


def check_file(path: Path) -> None:
    """Raises TraceError: no regular file, empty, or larger than 2 GiB."""
    if not path.is_file():
        raise TraceError(f"{path} is no file: give the path of a trace")
    size = path.stat().st_size
    if size == 0:
        raise TraceError(f"{path} is empty: a trace holds at least one request")
    if size > LARGEST_FILE:
        raise TraceError(f"{path} has {size >> 20} MiB: split it, at most 2048 MiB are read")


def json_lines(path: Path) -> Iterator[tuple[Where, dict[str, Any]]]:
    """The objects of a JSONL file with their places; blank lines are passed over."""
    count = 0
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            where = Where(path, f"line {number}")
            if len(line) > LONGEST_LINE:
                raise where.refuse("the line is longer than 64 MiB")
            if not line.strip():
                continue
            count += 1
            if count > MAX_REQUESTS:
                raise where.refuse(f"more than {MAX_REQUESTS} requests")
            yield where, as_object(parse(line, where), where)


def parse(text: bytes, where: Where) -> Any:
    """The JSON value; a depth that would overflow the stack is refused like broken JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise where.refuse(f"broken JSON ({str(error) or type(error).__name__})") from None


def as_object(value: Any, where: Where) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise where.refuse(f"an object is needed, this is {kind(value)}")
    return value


def whole(record: dict[str, Any], key: str, minimum: int, maximum: int, where: Where) -> int:
    """The whole number under `key`, `minimum` to `maximum`. A float without a fraction is taken, a bool is not."""
    value = record.get(key)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        actual = "missing" if key not in record else kind(value)
        raise where.refuse(f"{key} must be a whole number, it is {actual}")
    if not minimum <= value <= maximum:
        raise where.refuse(f"{key} is {short(value)}, allowed are {minimum} to {maximum}")
    return value


def seconds(record: dict[str, Any], key: str, unit: float, where: Where) -> float:
    """The time under `key` in seconds; it was written in units of `unit` seconds."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        actual = "missing" if key not in record else kind(value)
        raise where.refuse(f"{key} must be a number, it is {actual}")
    time = float(value) * unit if abs(value) < 1e300 else math.inf
    if not 0 <= time <= LATEST_S:
        raise where.refuse(f"{key} is {short(value)}, allowed are 0 to {LATEST_S / unit:.0f}")
    return time


def text(record: dict[str, Any], keys: tuple[str, ...], where: Where) -> str:
    """The string under the first of `keys` that is present."""
    for key in keys:
        if key in record:
            if not isinstance(record[key], str):
                raise where.refuse(f"{key} must be text, it is {kind(record[key])}")
            return str(record[key])
    raise where.refuse(f"{' or '.join(keys)} is missing")


def kind(value: Any) -> str:
    """The JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number"}
    return names.get(type(value), "a number" if isinstance(value, float) else "null")


def short(value: object) -> str:
    """The value in at most 40 characters, for an error sentence."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    printed = str(value)
    return printed if len(printed) <= 40 else printed[:37] + "..."
