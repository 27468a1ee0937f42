"""Measure overlap on a live engine and write overlap.json with its plots."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sgl_indexcache.live.engine import Engine
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.live.progress import Bar
from sgl_indexcache.overlap import measure, plot
from sgl_indexcache.overlap.errors import OverlapError
from sgl_indexcache.pattern import Pattern
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.overlap/1"
DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_MAX_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Overlap:
    """The overlap at one context length.

    length   prompt tokens
    samples  sequences
    chance   what random selections would give
    layers   `[L, L]` between layers
    queries  `[D, L]` with the query d before, NaN where none is
    steps    `[S, L]` of every decode step with the one before
    """

    length: int
    samples: int
    chance: float
    layers: np.ndarray
    queries: np.ndarray
    steps: np.ndarray

    def described(self) -> dict[str, Any]:
        """For the report: every figure as a list, means beside them, null for what could not be measured."""
        adjacent = np.diagonal(self.layers, offset=1)
        return {
            "length": self.length,
            "samples": self.samples,
            "chance": self.chance,
            "between_layers": _lists(self.layers),
            "adjacent_layers_mean": float(adjacent.mean()) if len(adjacent) else None,
            "between_queries": {
                "distances": list(DISTANCES),
                "mean": _lists(self.queries.mean(axis=1)),
                "by_layer": _lists(self.queries),
            },
            "between_decode_steps": {
                "mean": float(self.steps.mean()) if self.steps.size else None,
                "by_layer": _lists(self.steps.mean(axis=0)) if self.steps.size else None,
                "by_step": _lists(self.steps.mean(axis=1)) if self.steps.size else None,
            },
        }


def check_size(model: ModelFacts, longest: int) -> None:
    """Refuse lengths whose selections, which come back whole, would not fit in memory."""
    size = longest * model.layers * model.top_k * 4
    if size > _MAX_BYTES:
        raise OverlapError(
            f"the selections of {longest} tokens take {size / 2**30:.0f} GiB for this model: choose shorter lengths"
        )


def overlap(
    model: ModelFacts,
    windows: dict[int, list[list[int]]],
    engine: Engine,
    out: Path,
    *,
    decode_steps: int,
    rows: int,
    source: str,
    console: Console,
    draw: bool = True,
) -> list[Overlap]:
    """Ask the engine for the selections of every window, all layers Full, and write the report into `out`.

    With `draw`, the plots layers.png and curves.png too.
    """
    engine.switch(Pattern("F" * model.layers))
    results = []
    with Bar(console, "sequences", sum(map(len, windows.values()))) as bar:
        for sequences in windows.values():
            parts = []
            for ids in sequences:
                begin = time.monotonic()
                parts.append(_measure(model, engine, ids, decode_steps, rows))
                bar.advance(time.monotonic() - begin)
            results.append(_mean(parts))
    report = write_json(
        out / "overlap.json",
        SCHEMA,
        {
            "model": model.described(),
            "settings": {
                "engine": engine.facts(),
                "text": source,
                "rows": rows,
                "decode_steps": decode_steps,
            },
            "lengths": [result.described() for result in results],
        },
    )
    if draw:
        plot.draw(out, report)
    return results


def _measure(model: ModelFacts, engine: Engine, ids: Sequence[int], decode_steps: int, rows: int) -> Overlap:
    selections = engine.selections(ids, model.layers, model.top_k, decode_steps + 1)
    compared = measure.sparse_rows(len(ids), model.top_k, rows)
    return Overlap(
        length=len(ids),
        samples=1,
        chance=measure.chance(compared, model.top_k),
        layers=measure.between_layers(selections, compared),
        queries=measure.between_queries(selections, compared, DISTANCES),
        steps=measure.between_steps(selections, len(ids)),
    )


def _mean(parts: list[Overlap]) -> Overlap:
    return Overlap(
        length=parts[0].length,
        samples=len(parts),
        chance=parts[0].chance,
        layers=np.mean([part.layers for part in parts], axis=0),
        queries=np.mean([part.queries for part in parts], axis=0),
        steps=np.mean([part.steps for part in parts], axis=0),
    )


def _lists(values: np.ndarray) -> Any:
    """Nested lists with four decimals; NaN, which JSON does not have, becomes null."""
    return [
        _lists(value) if isinstance(value, np.ndarray) else None if np.isnan(value) else round(float(value), 4)
        for value in values
    ]
