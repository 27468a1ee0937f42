"""Server-sent events out of a byte stream that may be cut anywhere."""

LARGEST_EVENT = 16 << 20


class EventTooLargeError(Exception):
    """An event grew past LARGEST_EVENT bytes without an end."""


class SseParser:
    """Collects the data of events. Comments and other fields than `data` are passed over."""

    __slots__ = ("_data", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes, in order.

        Raises:
            EventTooLargeError: what has come so far is no sensible event.
        """
        if not self._rest and not self._data and chunk.startswith(b"data: ") and chunk.endswith(b"\n\n"):
            # Nearly always: whole events, one line each, as servers write them.
            body = chunk[6:-2]
            if b"\n" not in body and b"\r" not in body:
                return [body]
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > LARGEST_EVENT:
            raise EventTooLargeError
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        if len(self._data) > 1 and sum(map(len, self._data)) > LARGEST_EVENT:
            raise EventTooLargeError
        return events
