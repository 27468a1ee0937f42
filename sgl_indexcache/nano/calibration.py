"""Calibration sequences for the pattern search on the nano model: held-out text with facts planted and asked for.

python -m sgl_indexcache.nano.calibration --data DIR --out FILE [--sequences 8] [--length 2048] [--seed 1]

DIR is what `sgl_indexcache.nano.corpus` writes. FILE becomes JSON lines, each {"ids": [...]}, as
`sgl-indexcache search --calibration` reads them.
"""

import argparse
import json
from pathlib import Path

import torch

from sgl_indexcache.nano.phrases import phrases
from sgl_indexcache.nano.tasks import Mix, make_batch
from sgl_indexcache.nano.train import read_shard


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    text = read_shard(options.data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(options.seed)
    mix = Mix(facts=1.0, copies=0.0)
    batch = make_batch(text, options.sequences, options.length, mix, phrases(text.device), generator)
    lines = [json.dumps({"ids": row}) for row in batch.tokens.tolist()]
    options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
