"""Where the event stream listens: Unix sockets in a private folder, or TCP with CURVE keys and nothing else."""

import contextlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sgl_indexcache.telemetry.errors import TelemetryError

DEFAULT = "ipc"
_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:.]+\]|[^:/\[\]]+):(\d{1,5})")
_LONGEST_PATH = 107  # sun_path of a Unix socket, less its final zero byte


@dataclass(frozen=True, slots=True)
class Keys:
    """CURVE: the server's key pair, and the folder with the public certificates (*.key) of those who may connect."""

    public: bytes
    secret: bytes
    clients: Path


@dataclass(frozen=True, slots=True)
class Address:
    """The two sockets of a publisher, as ZMQ endpoints to bind, and the keys that TCP must have."""

    events: str
    replay: str
    keys: Keys | None = None


def check(events: str, keys: str | None) -> None:
    """Refuse an address that `resolve` would refuse, without touching sockets or making folders.

    Raises:
        TelemetryError: the address is not understood, or it is TCP and the keys are not there or not private.
    """
    if events == DEFAULT:
        return
    if events.startswith("ipc://"):
        if not events.removeprefix("ipc://").startswith("/"):
            raise TelemetryError(f"telemetry.address {events} needs an absolute folder, such as ipc:///run/indexcache")
        return
    match = _TCP.fullmatch(events)
    if match is None or not 0 < int(match[2]) < 65535:
        raise TelemetryError(
            f"telemetry.address {events!r} is not understood: write ipc, ipc:///FOLDER or tcp://HOST:PORT"
        )
    if not keys:
        raise TelemetryError(
            f"telemetry.address {events} would be open to the network: set telemetry.keys to a folder with CURVE keys, "
            "or use ipc"
        )
    read_keys(Path(keys))


def resolve(events: str, keys: str | None, rank: int) -> Address:
    """The sockets of one scheduler; makes the folder of Unix sockets.

    Unix sockets are called `<process id>.events` and `.replay`. On TCP the replay socket has the port after, and each
    data-parallel rank the two ports after those of the rank before.

    Raises:
        TelemetryError: as `check`, or the folder is not ours alone.
    """
    check(events, keys)
    if not events.startswith("tcp://"):
        folder = default_folder() if events == DEFAULT else Path(events.removeprefix("ipc://"))
        private(folder)
        remove_stale(folder)
        stem = folder / str(os.getpid())
        if len(os.fsencode(stem)) + len(".replay") > _LONGEST_PATH:
            raise TelemetryError(f"telemetry.address: {folder} is too long for a Unix socket; name a shorter folder")
        return Address(f"ipc://{stem}.events", f"ipc://{stem}.replay")
    match = _TCP.fullmatch(events)
    assert match is not None, "checked above"
    assert keys is not None, "checked above"
    port = int(match[2]) + 2 * rank
    if port + 1 > 65535:
        raise TelemetryError(f"telemetry.address {events}: no port is left for data-parallel rank {rank}; use a lower")
    return Address(f"tcp://{match[1]}:{port}", f"tcp://{match[1]}:{port + 1}", read_keys(Path(keys)))


def default_folder() -> Path:
    """$XDG_RUNTIME_DIR/sgl-indexcache, else a folder of this user in the folder for temporary files."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK):
        return Path(runtime, "sgl-indexcache")
    return Path(tempfile.gettempdir(), f"sgl-indexcache-{os.getuid()}")


def private(folder: Path) -> None:
    """Make the folder with mode 0700, or raise TelemetryError unless it is ours and nobody else may enter."""
    try:
        folder.mkdir(mode=0o700, parents=False)
    except FileExistsError:
        pass
    except OSError as error:
        raise TelemetryError(
            f"telemetry.address: {folder} cannot be made ({error.strerror}); name a folder in one that exists"
        ) from error
    entry = os.lstat(folder)  # a link may lead to a folder of someone else's choice
    mode = stat.S_IMODE(entry.st_mode)
    if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.getuid() or mode & 0o077 or not os.access(folder, os.W_OK):
        raise TelemetryError(
            f"telemetry.address: {folder} must be a folder of this user with mode 0700, but its mode is {mode:04o} and "
            f"its owner {entry.st_uid}; remove it or name another"
        )


def remove_stale(folder: Path) -> None:
    """Remove the sockets of processes that are gone."""
    for path in folder.iterdir():
        if path.suffix in (".events", ".replay") and path.stem.isdecimal() and not Path("/proc", path.stem).exists():
            with contextlib.suppress(OSError):
                path.unlink()


def read_keys(folder: Path) -> Keys:
    """The certificates in `server.key_secret` and `clients/*.key`, as `zmq.auth.create_certificates` writes them.

    Raises:
        TelemetryError: a file is missing or not a certificate, or others than its owner may read the secret.
    """
    import zmq.auth

    secret, clients = folder / "server.key_secret", folder / "clients"
    how = "make keys with zmq.auth.create_certificates"
    try:
        if stat.S_IMODE(secret.stat().st_mode) & 0o077:
            raise TelemetryError(f"telemetry.keys: {secret} can be read by others; run chmod 600 on it")
        public_key, secret_key = zmq.auth.load_certificate(secret)
        known = zmq.auth.load_certificates(clients)
    except (OSError, ValueError) as error:
        raise TelemetryError(f"telemetry.keys: {folder} holds no usable CURVE keys ({error}); {how}") from None
    if secret_key is None:
        raise TelemetryError(f"telemetry.keys: {secret} holds no secret key; {how}")
    if not known:
        raise TelemetryError(f"telemetry.keys: {clients} holds no client's public key (*.key); {how}")
    return Keys(public_key, secret_key, clients)
