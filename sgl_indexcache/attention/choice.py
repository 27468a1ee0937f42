"""Which kernel serves a shape: a table of measured times, and what the settings say instead.

The table (choices.json) is what `sgl-indexcache bench kernels --fill` measured on one device. SGLang's own kernel
serves whatever was not measured, and whatever a rival does not beat by more than the noise of a measurement.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from sgl_indexcache.errors import UserError
from sgl_indexcache.settings import Kernels

Phase = Literal["prefill", "decode"]
Kv = Literal["bf16", "fp8"]
Consumer = Literal["sglang", "flashinfer", "flashmla", "fa3"]
Indexer = Literal["sglang", "ours"]

SCHEMA = "sgl_indexcache.choices/1"
FILE = Path(__file__).with_name("choices.json")
# A rival that wins by less than this is not used: medians of short kernels differ as much between two runs.
NOISE = 1.03
# What SGLang takes on Hopper with bf16 KV when no flag says otherwise (arg_groups/overrides.py:1578).
SGLANG_CONSUMER: Mapping[Phase, Consumer] = {"prefill": "flashmla", "decode": "fa3"}


class ChoiceError(UserError):
    """The settings name a kernel that cannot serve here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Measured times of rivals for one shape.

    heads are attention heads for consumers and index heads for indexers; keys (0 for consumers) is the length of
    the context that was scored; us maps a kernel's name to its median time in microseconds.
    """

    phase: Phase
    heads: int
    rows: int
    us: Mapping[str, float]
    keys: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Everything measured on one device."""

    device: str
    origin: str
    consumers: tuple[Entry, ...]
    indexers: tuple[Entry, ...]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Table":
        """From a parsed JSON document; raises ChoiceError when it is not of this schema."""
        if document.get("schema") != SCHEMA:
            raise ChoiceError(
                f"the table of kernels is not of schema {SCHEMA}; run sgl-indexcache bench kernels --fill"
            )
        return cls(
            device=document["device"],
            origin=document["origin"],
            consumers=tuple(Entry(**entry) for entry in document["consumers"]),
            indexers=tuple(Entry(**entry) for entry in document["indexers"]),
        )

    def consumer_times(self, phase: Phase, heads: int, rows: int) -> dict[str, float]:
        """Microseconds by kernel at this shape; empty when this number of heads was not measured."""
        return _between([e for e in self.consumers if e.phase == phase and e.heads == heads], rows)

    def indexer_times(self, phase: Phase, heads: int, rows: int) -> dict[int, dict[str, float]]:
        """Microseconds by kernel, for every length of context that was measured with these heads."""
        cases = [e for e in self.indexers if e.phase == phase and e.heads == heads]
        return {keys: _between([e for e in cases if e.keys == keys], rows) for keys in sorted({e.keys for e in cases})}


def _between(entries: list[Entry], rows: int) -> dict[str, float]:
    """Times at `rows`, on a line in log scale between two measured numbers; beyond them the nearest one speaks."""
    below = max((e for e in entries if e.rows <= rows), key=lambda e: e.rows, default=None)
    above = min((e for e in entries if e.rows >= rows), key=lambda e: e.rows, default=None)
    if below is None or above is None or below.rows == above.rows:
        only = below or above
        return dict(only.us) if only else {}
    share = math.log(rows / below.rows) / math.log(above.rows / below.rows)
    return {
        name: math.exp((1 - share) * math.log(below.us[name]) + share * math.log(above.us[name]))
        for name in below.us.keys() & above.us.keys()
    }


@cache
def table() -> Table:
    """The table that came with the package, or that `bench kernels --fill` wrote over it."""
    return Table.of(json.loads(FILE.read_text()))


def best(times: Mapping[str, float], peer: str) -> str:
    """The fastest kernel, or `peer` where none beats it by more than NOISE or it was not measured."""
    if peer not in times:
        return peer
    fastest = min(times, key=lambda name: (times[name], name))
    return fastest if times[fastest] * NOISE < times[peer] else peer


@dataclass(frozen=True, slots=True)
class Chooser:
    """The kernels of one scheduler.

    heads        attention heads of this rank
    index_heads  heads of the indexer
    hopper       whether device and cache are what table and kernels are for: compute capability 9.0, and a latent
                 cache of 512 + 64
    ours         whether kernels.score_select is there
    """

    settings: Kernels
    heads: int
    index_heads: int
    kv: Kv
    hopper: bool
    ours: bool
    table: Table

    def __post_init__(self) -> None:
        choices = {"prefill": self.settings.prefill, "decode": self.settings.decode}
        for phase, name in choices.items():
            if name not in ("auto", "sglang") and self.kv != "bf16":
                raise ChoiceError(f"kernels.{phase}: {name} reads bf16 KV only; use --kv-cache-dtype bfloat16 or auto")
            if name not in ("auto", "sglang") and not self.hopper:
                raise ChoiceError(
                    f"kernels.{phase}: {name} needs a Hopper GPU and a latent cache of 512 + 64; use sglang or auto"
                )
        if self.settings.indexer == "ours" and not (self.ours and self.hopper):
            raise ChoiceError("kernels.indexer: ours needs a Hopper GPU and Triton; use sglang or auto")

    def consumer(self, phase: Phase, rows: int) -> Consumer:
        """Who attends to the selections of `rows` queries."""
        choice: Consumer | Literal["auto"] = getattr(self.settings, phase)
        if choice != "auto":
            return choice
        if self.kv != "bf16" or not self.hopper:
            return "sglang"
        times = self.table.consumer_times(phase, self.heads, rows)
        return cast(Consumer, best(times, SGLANG_CONSUMER[phase])) if times else "sglang"

    def indexer(self, phase: Phase, rows: int, keys: int | None = None) -> Indexer:
        """Who scores and selects for `rows` queries of a Full layer.

        keys is the longest context of the batch; None (a graph that serves any) asks for the one that is best at
        every measured length, else SGLang's.
        """
        choice = self.settings.indexer
        if choice != "auto":
            return choice
        if not (self.ours and self.hopper):
            return "sglang"
        measured = self.table.indexer_times(phase, self.index_heads, rows)
        if keys is not None and measured:
            nearest = min(measured, key=lambda length: abs(math.log(length / max(keys, 1))))
            measured = {nearest: measured[nearest]}
        return "ours" if measured and {best(t, "sglang") for t in measured.values()} == {"ours"} else "sglang"

    def described(self) -> dict[str, dict[str, str]]:
        """Per phase, who scores, selects and attends, with the rows from which another one takes over."""
        words = {"ours": "score_select (Triton)", "sglang": "SGLang"}
        result: dict[str, dict[str, str]] = {}
        phases: tuple[Phase, Phase] = ("prefill", "decode")
        for phase in phases:
            indexer = _spans([(rows, self.indexer(phase, rows)) for rows in _rows(self.table.indexers, phase)], words)
            attention = _spans(
                [(rows, self.consumer(phase, rows)) for rows in _rows(self.table.consumers, phase)], words
            )
            result[phase] = {"score": indexer, "select": indexer, "attention": attention}
        return result


def _rows(entries: tuple[Entry, ...], phase: str) -> list[int]:
    return sorted({entry.rows for entry in entries if entry.phase == phase}) or [1]


def _spans(chosen: Sequence[tuple[int, str]], words: Mapping[str, str]) -> str:
    parts: list[str] = []
    last = None
    for rows, name in chosen:
        if name != last:
            shown = words.get(name, name)
            parts.append(shown if last is None else f"{shown} from {rows} rows")
        last = name
    return ", ".join(parts)


def describe(settings: Kernels, *, hopper: bool) -> dict[str, dict[str, str]]:
    """`Chooser.described` for the number of heads that was measured first, named in the text."""
    measured = table()
    heads = measured.consumers[0].heads if measured.consumers else 0
    index_heads = measured.indexers[0].heads if measured.indexers else 0
    chooser = Chooser(settings, heads, index_heads, "bf16", hopper, have_ours(), measured)
    kernels = chooser.described()
    if settings.prefill == settings.decode == "auto" and hopper:
        for used in kernels.values():
            used["attention"] += f" ({heads} heads, bf16 KV, as measured on {measured.device})"
    return kernels


def have_ours() -> bool:
    """Whether the fused indexer kernel can be imported."""
    from importlib.util import find_spec

    return find_spec("triton") is not None and find_spec("sgl_indexcache.kernels.score_select") is not None
