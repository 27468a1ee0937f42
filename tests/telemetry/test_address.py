"""Where events may be published: a folder of one's own, or TCP with keys. Everything else is refused in a sentence."""

import os
from pathlib import Path

import pytest
import zmq
import zmq.auth

from sgl_indexcache.settings import Settings
from sgl_indexcache.sglang_port.seams.common import events as seam
from sgl_indexcache.telemetry import address, events
from sgl_indexcache.telemetry.address import Address, check, resolve
from sgl_indexcache.telemetry.errors import TelemetryError
from sgl_indexcache.telemetry.events import Fallback
from sgl_indexcache.telemetry.publisher import Publisher
from sgl_indexcache.telemetry.subscriber import ClientKeys, Subscriber


@pytest.fixture
def keys(folder: Path) -> Path:
    """A server's keys and those of one client; the client keeps its own in `client`, a stranger in `stranger`."""
    for name in ("clients", "client", "stranger"):
        (folder / name).mkdir()
    zmq.auth.create_certificates(folder, "server")
    zmq.auth.create_certificates(folder / "client", "me")
    zmq.auth.create_certificates(folder / "stranger", "me")
    (folder / "client" / "me.key").rename(folder / "clients" / "me.key")
    return folder


def tcp() -> str:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        for _ in range(20):
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            if port < 65535:
                break
    return f"tcp://127.0.0.1:{port}"


def refused(events: str, keys: Path | None = None) -> str:
    with pytest.raises(TelemetryError) as caught:
        resolve(events, None if keys is None else str(keys), 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "*", "[::]", "127.0.0.1", "node.example"])
def test_tcp_without_keys_is_refused_everywhere(host: str) -> None:
    assert "set telemetry.keys" in refused(f"tcp://{host}:5557")
    with pytest.raises(TelemetryError, match=r"telemetry\.keys"):
        check(f"tcp://{host}:5557", "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "tcp://", "tcp://host", "tcp://host:0", "tcp://host:65535", "tcp://host:99999", "tcp://a/b:1"),
        *("udp://h:1", "inproc://x", "tcp://h:1;tcp://g:2", "pgm://h:1", "host:5557"),
    ],
)
def test_what_is_no_address(text: str, keys: Path) -> None:
    assert "not understood" in refused(text, keys)


def test_a_relative_folder_is_refused() -> None:
    assert "absolute folder" in refused("ipc://here")


def test_the_default_is_a_private_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    found = resolve("ipc", None, 0)
    made = folder / "sgl-indexcache"
    assert found == Address(f"ipc://{made}/{os.getpid()}.events", f"ipc://{made}/{os.getpid()}.replay")
    assert made.stat().st_mode & 0o777 == 0o700
    assert resolve("ipc", None, 0) == found


def test_without_a_runtime_folder_it_is_named_after_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert resolve("ipc", None, 0).events.startswith(f"ipc://{folder}/sgl-indexcache-{os.getuid()}/")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o777])
def test_a_folder_that_others_may_enter_is_refused(folder: Path, mode: int) -> None:
    (folder / "open").mkdir()
    (folder / "open").chmod(mode)
    assert f"its mode is {mode:04o}" in refused(f"ipc://{folder}/open")


def test_a_link_is_refused(folder: Path) -> None:
    (folder / "real").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "real")
    assert "must be a folder of this user" in refused(f"ipc://{folder}/link")


def test_a_file_a_missing_parent_and_a_long_path_are_refused(folder: Path) -> None:
    (folder / "file").touch()
    assert "must be a folder" in refused(f"ipc://{folder}/file")
    assert "cannot be made" in refused(f"ipc://{folder}/no/such")
    assert "too long" in refused(f"ipc://{folder}/{'x' * 100}")


def test_sockets_of_dead_processes_are_removed_and_nothing_else(folder: Path) -> None:
    for name in ("999999999.events", "999999999.replay", f"{os.getpid()}.events", "notes.events", "1.txt"):
        (folder / name).touch()
    resolve(f"ipc://{folder}", None, 0)
    assert {path.name for path in folder.iterdir()} == {f"{os.getpid()}.events", "notes.events", "1.txt"}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "server.key_secret").chmod(0o644), "can be read by others"),
        (lambda folder: (folder / "server.key_secret").unlink(), "no usable CURVE keys"),
        (lambda folder: (folder / "server.key_secret").write_text("curve\n"), "no usable CURVE keys"),
        (lambda folder: (folder / "clients" / "me.key").unlink(), "no client's public key"),
        (lambda folder: (folder / "server.key").replace(folder / "server.key_secret").chmod(0o600), "no secret key"),
    ],
    ids=["open", "missing", "empty", "no-clients", "public"],
)
def test_keys_that_do_not_serve(keys: Path, harm: object, words: str) -> None:
    assert callable(harm)
    (keys / "server.key_secret").chmod(0o600)
    check("tcp://127.0.0.1:5557", str(keys))
    harm(keys)
    assert words in refused("tcp://127.0.0.1:5557", keys)


def test_ranks_have_ports_of_their_own(keys: Path) -> None:
    (keys / "server.key_secret").chmod(0o600)
    found = [resolve("tcp://*:5000", str(keys), rank) for rank in range(3)]
    assert [(one.events[-4:], one.replay[-4:]) for one in found] == [
        ("5000", "5001"),
        ("5002", "5003"),
        ("5004", "5005"),
    ]
    with pytest.raises(TelemetryError, match="no port is left"):
        resolve("tcp://*:65530", str(keys), 3)


def test_over_tcp_the_known_client_reads_and_nobody_else(keys: Path) -> None:
    (keys / "server.key_secret").chmod(0o600)
    publisher = Publisher(resolve(tcp(), str(keys), 0))
    where = (publisher.address.events, publisher.address.replay)
    try:
        publisher(Fallback(layer=1, reason="recall", turns=2))
        with Subscriber(*where, ClientKeys(keys / "client" / "me.key_secret", keys / "server.key")) as known:
            found = known.replay(timeout=10)
            assert found is not None
            while not found:  # asked before the thread had published
                found = known.replay(timeout=10)
            assert found[0].event == Fallback(layer=1, reason="recall", turns=2)
        with Subscriber(*where, ClientKeys(keys / "stranger" / "me.key_secret", keys / "server.key")) as stranger:
            assert stranger.replay(timeout=0.5) is None
        with Subscriber(*where) as plain:
            assert plain.replay(timeout=0.5) is None
    finally:
        publisher.close()


def test_an_address_in_use_is_refused(keys: Path) -> None:
    (keys / "server.key_secret").chmod(0o600)
    where = resolve(tcp(), str(keys), 0)
    first = Publisher(where)
    try:
        with pytest.raises(TelemetryError, match="cannot be bound"):
            Publisher(where)
    finally:
        first.close()


def test_a_client_with_a_bad_key_file_is_told(keys: Path) -> None:
    with pytest.raises(TelemetryError, match="cannot be read"):
        Subscriber("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", ClientKeys(keys / "none", keys / "server.key"))


def test_the_seam_opens_the_stream_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"telemetry": {"address": f"ipc://{folder}", "queue": 7, "replay": 3}}).telemetry
    monkeypatch.setattr(seam, "publisher", None)
    seam.open_stream(settings, 2)
    try:
        assert events.connected()
        assert (seam.publisher._limit, seam.publisher._kept.maxlen, seam.publisher._rank) == (7, 3, 2)
        assert seam.publisher.snapshot()["address"].startswith(f"ipc://{folder}/")
    finally:
        events.connect(None)
        seam.publisher.close()
    assert Settings().telemetry.address == address.DEFAULT
