"""The report: one JSON document, `SCHEMA`; every request of the run stands in it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from sgl_indexcache.loadtest.errors import ReportError
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.results import machine, versions

SCHEMA = "sgl_indexcache.loadtest/1"
LARGEST = 4 << 30


def heading() -> dict[str, Any]:
    """Schema, time, versions and machine; no name of the machine."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {name: text for name, text in versions(("aiohttp", "numpy", "sglang")).items() if text},
    }


class Spool:
    """Takes records as they come, on disk, so that a long run stays small; becomes the report's requests.

    Raises ReportError from the constructor: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "requests.jsonl.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        except OSError as error:
            raise ReportError(f"{folder} cannot be written ({error.strerror}): choose another --out") from None
        self._encoder = msgspec.json.Encoder()
        self.count = 0

    def add(self, record: Record) -> None:
        """Append one record."""
        self._file.write(self._encoder.encode(record) + b"\n")
        self.count += 1

    def records(self) -> Iterator[Record]:
        """Every record so far, read back one by one."""
        self._file.flush()
        decoder = msgspec.json.Decoder(Record)
        with self._path.open("rb") as file:
            for line in file:
                yield decoder.decode(line)

    def finish(self, document: dict[str, Any], path: Path) -> None:
        """Write `document` with the requests to `path`, at once or not at all, and remove the spool."""
        self._file.flush()
        scratch = path.with_name(path.name + ".part")
        head = msgspec.json.encode(document)
        with scratch.open("wb") as out, self._path.open("rb") as lines:
            out.write(head[:-1] + b',\n"requests": [\n')
            for number, line in enumerate(lines):
                out.write((b",\n" if number else b"") + line.rstrip(b"\n"))
            out.write(b"\n]}\n")
        scratch.replace(path)
        self.close()

    def close(self) -> None:
        """Remove the spool."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def load_report(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """A report (the file, or its folder) without its requests, and the requests.

    Raises:
        ReportError: no such file, or not a report of this schema.
    """
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise ReportError(f"{path} holds no report: give the folder or the report.json of a run")
    if file.stat().st_size > LARGEST:
        raise ReportError(f"{file} is larger than 4 GiB: it cannot be read at once")
    try:
        data = msgspec.json.decode(file.read_bytes())
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ReportError(f"{file} is no report of schema {SCHEMA}: give one that `loadtest run` wrote")
        records = msgspec.convert(data.pop("requests"), list[Record])
    except (msgspec.DecodeError, msgspec.ValidationError, KeyError, RecursionError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} is no whole report ({str(error)[:80]}): run it again") from None
    return data, records
