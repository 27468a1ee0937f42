"""The journal: one line for every evaluation, on disk before the next begins; what makes a search resumable."""

import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sgl_indexcache.search.errors import SearchError

SCHEMA = "sgl_indexcache.search.journal/1"


class Journal:
    """Records by key in a JSON-lines file whose first line says what they belong to.

    Opening it drops a last line that was cut short (the process or the machine died while writing), and
    refuses a journal of another model, calibration or settings, and one that another search writes. Use as a
    context manager; `put` may be called from several threads.

    Raises:
        SearchError: from the constructor.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            self._open({"schema": SCHEMA, **header})
        except BaseException:
            self._file.close()
            raise

    def _open(self, header: Mapping[str, Any]) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SearchError(f"{self.path} is being written by another search: wait for it to end") from None
        lines = self._whole_lines()
        if not lines:
            self._append(header)
            _sync_folder(self.path.parent)
            return
        expected = json.loads(json.dumps(header))
        if lines[0] != expected:
            differing = [name for name in expected if lines[0].get(name) != expected[name]]
            what = differing[0] if differing else "format"
            raise SearchError(
                f"{self.path} is the journal of another {what}: choose another output folder, or remove the file"
            )
        for number, line in enumerate(lines[1:], 2):
            key = line.pop("key", None)
            if not isinstance(key, str):
                raise SearchError(f"{self.path} line {number} is no record: remove the file to search anew")
            self._records[key] = line

    def _whole_lines(self) -> list[dict[str, Any]]:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        rows = whole.splitlines(keepends=True)
        parsed: list[dict[str, Any]] = []
        for number, row in enumerate(rows, 1):
            try:
                line = json.loads(row)
                if not isinstance(line, dict):
                    raise ValueError("no object")
            except ValueError:
                if number < len(rows):
                    raise SearchError(f"{self.path} line {number} is damaged: remove the file to search anew") from None
                whole = whole[: -len(row)]
                break
            parsed.append(line)
        if len(whole) < len(content):
            self._file.truncate(len(whole))
            os.fsync(self._file.fileno())
        return parsed

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of this key, or None."""
        return self._records.get(key)

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a record; it is on disk when this returns."""
        with self._lock:
            self._append({"key": key, **record})
            self._records[key] = dict(record)

    def __len__(self) -> int:
        return len(self._records)

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
