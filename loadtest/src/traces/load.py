"""Which reader a trace needs, and the one call that reads any of them."""

from collections.abc import Iterator
from pathlib import Path

from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.traces import mooncake, recording, sharegpt
from sgl_indexcache.loadtest.traces.reading import check_file
from sgl_indexcache.loadtest.workload.generator import SaltMode
from sgl_indexcache.loadtest.workload.material import Material
from sgl_indexcache.loadtest.workload.plan import Session

FORMATS = ("mooncake", "sharegpt", "recording")


class Trace:
    """A trace that was read and accepted.

    timed  whether its sessions say when they start; otherwise a load shape decides
    count  its sessions
    """

    def __init__(self, form: str, timed: bool, count: int, sessions: Iterator[Session]) -> None:
        self.form, self.timed, self.count, self.sessions = form, timed, count, sessions


def load_trace(
    path: Path, form: str, material: Material, seed: int, salt_mode: SaltMode = "run", salt: str = ""
) -> Trace:
    """Read and check the whole file; its sessions are then made one by one.

    form  one of FORMATS, or `auto` to look at the beginning of the file

    Raises:
        TraceError: the file or any line of it is refused.
        OptionError: the format is unknown or cannot be told.
        WorkloadError: text that must become token ids without a tokenizer.
    """
    check_file(path)
    if form == "auto":
        form = _recognise(path)
    piece = None if salt_mode == "none" else material.salt(salt)
    if form == "mooncake":
        requests = mooncake.read(path)
        return Trace(form, True, len(requests), mooncake.sessions(requests, material, seed, piece))
    if form == "sharegpt":
        conversations = sharegpt.read(path)
        # The counts of tokens are part of the check, so all are made before the first is sent.
        sessions = list(sharegpt.sessions(conversations, material, piece))
        return Trace(form, False, len(sessions), iter(sessions))
    if form == "recording":
        source = recording.read(path)
        return Trace(form, True, len(source.starts), recording.sessions(source, material, salt_mode, salt))
    raise OptionError(f"the trace format {form!r} is unknown: use one of {', '.join(FORMATS)}, or auto")


def _recognise(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(65536)
    if b'"' + recording.SCHEMA_PREFIX.encode() in head:
        return "recording"
    first = head.lstrip().split(b"\n", 1)[0]
    if b'"hash_ids"' in first or b'"timestamp"' in first or b'"input_length"' in first:
        return "mooncake"
    if any(key in head for key in (b'"conversations"', b'"conversation"', b'"messages"')):
        return "sharegpt"
    raise OptionError(f"{path.name} looks like no trace that we know: name its format with --format")
