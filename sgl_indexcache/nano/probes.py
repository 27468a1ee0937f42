"""What patterns of the nano model are searched on and judged by, as files for `search`, `quality` and `overlap`.

python -m sgl_indexcache.nano.probes --data DIR --out DIR [--length 8184]

--data is what `sgl_indexcache.nano.corpus` writes. The search sees the first half of the held-out text, judging the
second, so that no pattern is praised for text that it was chosen on. Written are

    calibration.jsonl   text with facts planted and asked for, {"ids": [...]}
    heldout.jsonl       plain text, {"ids": [...]}
    needles.jsonl       one fact among others, asked for at the very end, {"ids": prompt, "answer": ids}
    text.txt            plain text for the overlap
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sgl_indexcache.nano.phrases import FAMILIES, phrases
from sgl_indexcache.nano.tasks import Mix, make_batch, needle_batch, windows
from sgl_indexcache.nano.train import read_shard

DEPTHS = 10
"""Depths at which every family of phrases is asked for."""
DISTRACTORS = 7
"""Facts of the same wording in the same context that nobody asks for."""


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
        asked = digits.nonzero().flatten().tolist()
        yield {"ids": tokens[: asked[0] + 1].tolist(), "answer": targets[asked].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=8184, help="tokens; a server wants a few to spare")
    parser.add_argument("--calibration", type=int, default=8, help="sequences to search on")
    parser.add_argument("--heldout", type=int, default=16, help="sequences to measure the loss on")
    parser.add_argument("--needles", type=int, default=2, help="needles for every family of phrases and depth")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    first, second = text[: len(text) // 2], text[len(text) // 2 :]
    generator = torch.Generator().manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    lines = {
        "calibration.jsonl": calibration(first, options.calibration, options.length, generator),
        "heldout.jsonl": held_out(second, options.heldout, options.length, generator),
        "needles.jsonl": needles(second, options.needles, options.length, generator),
    }
    for name, entries in lines.items():
        (options.out / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (options.out / "text.txt").write_bytes(bytes(second[: 16 * options.length].tolist()))


if __name__ == "__main__":
    main()
