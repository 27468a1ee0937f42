"""Fetch the training text and pack it: `python -m sgl_indexcache.nano corpus OUT`.

Packages are downloaded by name with apt's own client and unpacked, never installed. Their text is cut into
pieces; a hash of package, path and piece number alone decides which pieces are held out and in what order
all of them stand, so the same packages give the same bytes.
"""

import gzip
import hashlib
import json
import lzma
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.errors import UserError
from sgl_indexcache.nano.training.sources import SOURCES, Source
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.nano.manifest/1"
PIECE = 1 << 16
"""A document longer than this many bytes is cut, at a line end, into pieces of about this size."""
HELD_OUT = 64
"""One piece in so many is held out."""
BOUNDARY = 0xFF
"""The byte between two pieces: no UTF-8 text holds it. Training reads it as end of sequence."""
NAMES = ("train", "heldout")


class CorpusError(UserError):
    """A package that cannot be had or holds no text."""


class _Text(HTMLParser):
    """The words of a page, without its scripts, styles and navigation."""

    SKIPPED = frozenset({"script", "style", "head", "nav", "footer"})
    BREAKS = frozenset({"p", "div", "li", "tr", "br", "pre", "dt", "dd", "h1", "h2", "h3", "h4", "h5"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.SKIPPED:
            self.depth += 1
        elif tag in self.BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.SKIPPED:
            self.depth = max(0, self.depth - 1)

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.parts.append(data)


@dataclass(frozen=True, slots=True)
class Piece:
    """Up to PIECE bytes of one document; `order` is its place in the shard, a hash."""

    order: bytes
    text: bytes

    @property
    def shard(self) -> str:
        return "heldout" if self.order[0] % HELD_OUT == 0 else "train"


def text_of(path: Path) -> str:
    """The text of a file: unpacked if it is gzip or dictzip, freed of tags if it is HTML, tidied."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    text = raw.decode("utf-8", errors="ignore")
    if path.name.removesuffix(".gz").endswith(".html"):
        page = _Text()
        page.feed(text)
        text = "".join(page.parts)
    lines: list[str] = []
    for line in text.replace("\r", "").replace("\x00", "").split("\n"):
        line = line.rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines)


def pieces_of(package: str, path: str, text: str) -> Iterator[Piece]:
    """Cut a document; very short documents (under 200 bytes) hold no language and are left out."""
    data = text.encode()
    begin = number = 0
    while len(data) - begin >= 200:
        end = begin + PIECE
        if end < len(data):
            end = data.find(b"\n", end) + 1 or len(data)
        order = hashlib.sha256(f"{package}/{path}/{number}".encode()).digest()
        yield Piece(order, data[begin:end])
        begin, number = end, number + 1


def read_source(source: Source, root: Path) -> list[Piece]:
    """The pieces of an unpacked package, up to its limit; equal texts are taken once."""
    pieces: list[Piece] = []
    for path in sorted(root.glob(source.include)):
        # Binary neighbours of text files, such as an index of offsets, are told by their NUL bytes.
        if path.is_file() and not path.is_symlink() and path.suffix not in {".dat", ".u8", ".index"}:
            inside = path.relative_to(root).as_posix()
            pieces.extend(pieces_of(source.package, inside, text_of(path)))
    digests: set[bytes] = set()
    kept: list[Piece] = []
    size = 0
    for piece in sorted(pieces, key=lambda piece: piece.order):
        digest = hashlib.sha256(piece.text).digest()
        if digest not in digests and size + len(piece.text) <= source.limit:
            digests.add(digest)
            kept.append(piece)
            size += len(piece.text)
    if not kept:
        raise CorpusError(f"package {source.package} holds no file like {source.include}")
    return kept


def fetch(source: Source, folder: Path) -> tuple[Path, str]:
    """Download and unpack one package below `folder`; its root and version."""
    place = folder / source.package
    place.mkdir()
    done = subprocess.run(
        ["apt-get", "download", "-qq", source.package], cwd=place, capture_output=True, text=True, check=False
    )
    archives = list(place.glob("*.deb"))
    if done.returncode or len(archives) != 1:
        raise CorpusError(f"cannot download {source.package} (run apt-get update first): {done.stderr.strip()}")
    version = subprocess.run(
        ["dpkg-deb", "-f", archives[0].name, "Version"], cwd=place, capture_output=True, text=True, check=True
    ).stdout.strip()
    subprocess.run(["dpkg-deb", "-x", archives[0].name, "root"], cwd=place, check=True)
    archives[0].unlink()
    return place / "root", version


def pack(pieces: list[Piece], out: Path) -> dict[str, dict[str, int | str]]:
    """Write `train.bin.xz` and `heldout.bin.xz`; size and digest of each, for the manifest."""
    facts: dict[str, dict[str, int | str]] = {}
    for name in NAMES:
        chosen = sorted((p for p in pieces if p.shard == name), key=lambda piece: piece.order)
        data = bytes([BOUNDARY]).join(piece.text for piece in chosen)
        packed = lzma.compress(data, preset=6)
        (out / f"{name}.bin.xz").write_bytes(packed)
        facts[name] = {
            "bytes": len(data),
            "packed_bytes": len(packed),
            "pieces": len(chosen),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    return facts


def build(out: Path) -> dict[str, object]:
    """Fetch every source, write the two shards and manifest.json into `out`; the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    pieces: list[Piece] = []
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        # apt downloads as its own user where it can.
        Path(scratch).chmod(0o755)
        for source in SOURCES:
            root, version = fetch(source, Path(scratch))
            texts = read_source(source, root)
            size = sum(len(piece.text) for piece in texts)
            print(f"{source.package:22} {version:28} {size / 1e6:6.2f} MB", flush=True)
            rows.append(
                {
                    "package": source.package,
                    "version": version,
                    "licence": source.licence,
                    "files": source.include,
                    "bytes": size,
                }
            )
            pieces.extend(texts)
    return write_json(out / "manifest.json", SCHEMA, {"sources": rows, "shards": pack(pieces, out)})


def command(out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")]) -> None:
    """Fetch the training text with apt's own client and pack it into two shards and a manifest."""
    print(json.dumps(build(out)["shards"], indent=1))
