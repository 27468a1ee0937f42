"""What patterns of the nano model are searched on and judged by, as files for `search`, `quality` and `overlap`.

python -m sgl_indexcache.nano probes --data DIR --out DIR [--length 8184]

--data is what the command `corpus` writes. The search sees the first half of the held-out text, judging the
second, so that no pattern is praised for text that it was chosen on. Written are

    calibration.jsonl   text with facts planted and asked for, {"ids": [...]}
    heldout.jsonl       plain text, {"ids": [...]}
    needles.jsonl       one fact among others, asked for at the very end, {"ids": prompt, "answer": ids}
    text.txt            plain text for the overlap
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sgl_indexcache.nano.phrases import FAMILIES, phrases
from sgl_indexcache.nano.training.recipe import Mix
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.tasks import make_batch, needle_batch, windows

DEPTHS = 10
"""Depths at which every family of phrases is asked for."""
DISTRACTORS = 7
"""Facts of the same wording in the same context, as distractors."""


def calibration(text: torch.Tensor, sequences: int, length: int, generator: torch.Generator) -> Iterable[Any]:
    """Held-out text uint8 [bytes] with facts written into every one of `sequences` windows of `length` tokens."""
    batch = make_batch(text, sequences, length, Mix(facts=1.0, copies=0.0), phrases(text.device), generator)
    return ({"ids": row} for row in batch.tokens.tolist())


def held_out(text: torch.Tensor, sequences: int, length: int, generator: torch.Generator) -> Iterable[Any]:
    """Windows of plain text."""
    return ({"ids": row} for row in windows(text, sequences, length, generator).tolist())


def needles(text: torch.Tensor, repeats: int, length: int, generator: torch.Generator) -> Iterable[Any]:
    """`repeats` needles for every family and depth, prompt and answer together one more than `length` tokens."""
    families = torch.arange(len(FAMILIES)).repeat(DEPTHS * repeats)
    depths = torch.linspace(0, 1, DEPTHS).repeat_interleave(len(FAMILIES)).repeat(repeats)
    batch = needle_batch(text, length, depths, families, DISTRACTORS, phrases(text.device), generator)
    for tokens, targets, digits in zip(batch.tokens, batch.targets, batch.digits, strict=True):
        places = digits.nonzero().flatten().tolist()
        yield {"ids": tokens[: places[0] + 1].tolist(), "answer": targets[places].tolist()}


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the files.")],
    length: Annotated[int, typer.Option("--length", help="Tokens; a server wants a few to spare.")] = 8184,
    search_on: Annotated[int, typer.Option("--calibration", help="Sequences to search on.")] = 8,
    judge_on: Annotated[int, typer.Option("--heldout", help="Sequences to measure the loss on.")] = 16,
    repeats: Annotated[int, typer.Option("--needles", help="Needles for every family of phrases and depth.")] = 2,
    seed: Annotated[int, typer.Option("--seed")] = 1,
) -> None:
    """Write the files on which patterns are searched and judged, for search, quality and overlap.

    The search sees the first half of the held-out text, judging the second.
    """
    text = read_shard(data, "heldout", torch.device("cpu"))
    first, second = text[: len(text) // 2], text[len(text) // 2 :]
    generator = torch.Generator().manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    lines = {
        "calibration.jsonl": calibration(first, search_on, length, generator),
        "heldout.jsonl": held_out(second, judge_on, length, generator),
        "needles.jsonl": needles(second, repeats, length, generator),
    }
    for name, entries in lines.items():
        (out / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (out / "text.txt").write_bytes(bytes(second[: 16 * length].tolist()))
