"""Mooncake's JSONL: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (one per 512-token block).

Equal ids stand for equal blocks at equal prefixes; the content is made from the id, so requests share in the
replay what they shared when recorded.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sgl_indexcache.loadtest.errors import TraceError
from sgl_indexcache.loadtest.traces.reading import (
    LONGEST_INPUT,
    LONGEST_OUTPUT,
    Where,
    json_lines,
    kind,
    seconds,
    short,
    whole,
)
from sgl_indexcache.loadtest.workload.material import Material
from sgl_indexcache.loadtest.workload.plan import Piece, Session, Turn

BLOCK = 512
LARGEST_ID = (1 << 63) - 1
_MILLISECOND = 1e-3


class Request:
    """One checked line. `sent_before`: leading tokens whose blocks an earlier line has, in order of time."""

    __slots__ = ("blocks", "input_length", "output_length", "sent_before", "start_s")

    def __init__(self, start_s: float, input_length: int, output_length: int, blocks: list[int]) -> None:
        self.start_s, self.input_length, self.output_length = start_s, input_length, output_length
        self.blocks = blocks
        self.sent_before = 0


def read(path: Path) -> list[Request]:
    """Every request, checked, in order of time; times begin at 0.

    Raises:
        TraceError: any line is refused; names the line and the reason.
    """
    requests = [_request(record, where) for where, record in json_lines(path)]
    if not requests:
        raise TraceError(f"{path.name} holds no request: a trace holds at least one")
    requests.sort(key=lambda request: request.start_s)
    begin = requests[0].start_s
    earlier: set[int] = set()
    for request in requests:
        request.start_s -= begin
        known = 0
        while known < len(request.blocks) and request.blocks[known] in earlier:
            known += 1
        request.sent_before = min(known * BLOCK, request.input_length)
        earlier.update(request.blocks)
    return requests


def _request(record: dict[str, Any], where: Where) -> Request:
    start = seconds(record, "timestamp", _MILLISECOND, where)
    inputs = whole(record, "input_length", 1, LONGEST_INPUT, where)
    outputs = whole(record, "output_length", 1, LONGEST_OUTPUT, where)
    blocks = record.get("hash_ids")
    if not isinstance(blocks, list):
        actual = "missing" if "hash_ids" not in record else kind(blocks)
        raise where.refuse(f"hash_ids must be a list of block ids, it is {actual}")
    for block in blocks:
        if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block <= LARGEST_ID:
            raise where.refuse(f"hash_ids holds {short(block)}, allowed are whole numbers from 0 to 2^63-1")
    needed = -(-inputs // BLOCK)
    if len(blocks) != needed:
        raise where.refuse(
            f"hash_ids has {len(blocks)} blocks, an input_length of {inputs} needs {needed} of {BLOCK} tokens"
        )
    return Request(start, inputs, outputs, blocks)


def sessions(requests: list[Request], material: Material, seed: int, salt: Piece | None) -> Iterator[Session]:
    """One single-turn session a request, made when it is asked for, so that a long trace stays small."""
    prefix = (salt,) if salt is not None else ()
    salted = salt.tokens if salt is not None else 0
    for index, request in enumerate(requests):
        pieces, left = [], request.input_length
        for block in request.blocks:
            size = min(BLOCK, left)
            left -= size
            # The whole block is made and cut, so that a last, shorter block is a prefix of its full self.
            piece = material.make("user", BLOCK, np.random.default_rng([seed, block]))
            pieces.append(piece if size == BLOCK else _cut(piece, size))
        turn = Turn(new=(_joined(pieces),), output_tokens=request.output_length, reply=None)
        yield Session(
            id=f"{index}", prefix=prefix, turns=(turn,), index=index, start_s=request.start_s,
            sent_before=request.sent_before + salted if request.sent_before else 0,
        )  # fmt: skip


def _cut(piece: Piece, size: int) -> Piece:
    if piece.ids is not None:
        return Piece(piece.role, size, ids=piece.ids[:size])
    assert piece.text is not None
    return Piece(piece.role, size, text=piece.text[: max(1, len(piece.text) * size // BLOCK)])


def _joined(pieces: list[Piece]) -> Piece:
    tokens = sum(piece.tokens for piece in pieces)
    ids = [piece.ids for piece in pieces if piece.ids is not None]
    if ids:
        return Piece("user", tokens, ids=np.concatenate(ids))
    return Piece("user", tokens, text=" ".join(piece.text or "" for piece in pieces))
