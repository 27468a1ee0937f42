"""The pattern search on the nano model's training code: a bare GPU measures a pattern in a fraction of a second.

    python -m sgl_indexcache.nano search --data DIR --out DIR [--keep 2]

The algorithm is the one of `sgl-indexcache search` (search/greedy.py), and so are the sequences (probes.py,
calibration.jsonl); only the forward is the training code's, in bf16 on a GPU, not the server's. OUT/search.json has the
form that `sgl-indexcache plot` draws. Needs torch, numpy, safetensors, PyYAML and typer only.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.model import NanoModel
from sgl_indexcache.nano.shape import SHAPES
from sgl_indexcache.nano.studies import probes
from sgl_indexcache.nano.training.device import default_device, dtype_of, prepare
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.pattern import Pattern, read_config
from sgl_indexcache.results import write_json
from sgl_indexcache.search.greedy import evaluations, greedy

SCHEMA = "sgl_indexcache.search/1"
"""Of sgl-indexcache search, whose module needs more than a bare GPU machine has."""


class Evaluator:
    """Losses of patterns on fixed sequences: `greedy.Evaluate`."""

    def __init__(self, model: NanoModel, tokens: torch.Tensor) -> None:
        self.model, self.tokens = model, tokens
        self.measured = 0

    @torch.no_grad()
    def loss(self, pattern: Pattern) -> float:
        """Mean next-token loss in nats over tokens int64 [B, T]."""
        self.model.pattern = pattern
        inputs, targets = self.tokens[:, :-1], self.tokens[:, 1:].contiguous()
        stream, _ = self.model.hidden(inputs, True)
        weights = torch.ones(targets.numel(), device=targets.device)
        _, each = self.model.loss(stream, targets, weights)
        self.measured += 1
        return float(each.double().mean())

    def __call__(self, patterns: Sequence[Pattern]) -> list[float]:
        return [self.loss(pattern) for pattern in patterns]


def load(checkpoint: Path, device: torch.device) -> NanoModel:
    """The checkpoint as the training code runs it: bf16 on a GPU, float32 elsewhere."""
    from sgl_indexcache.distill.checkpoint import Checkpoint

    hidden = read_config(checkpoint)["hidden_size"]
    shape = next(each for each in SHAPES.values() if each.config()["hidden_size"] == hidden)
    model = NanoModel(shape, dtype_of(device))
    Checkpoint(checkpoint).load(model)
    return prepare(model, device, False)


def search(evaluator: Evaluator, layers: int, keep: int) -> dict[str, Any]:
    """The greedy search down to `keep` Full layers: what search.json holds beside its envelope."""
    begun = time.monotonic()
    steps = greedy(layers, keep, evaluator)
    return {
        "settings": {"scorer": "loss", "keep": keep, "blocks": None, "forward": "training code"},
        "model": {"name": "nano", "layers": layers},
        "calibration": {"sequences": evaluator.tokens.shape[0], "tokens": evaluator.tokens.numel()},
        "pattern": str(steps[-1].pattern),
        "budgets": {str(step.full): {"pattern": str(step.pattern), "loss": step.loss} for step in steps},
        "steps": [step.described() for step in steps],
        "evaluations": {"asked": evaluations(layers, keep), "seconds_measuring": round(time.monotonic() - begun, 1)},
    }


def command(
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for search.json.")],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", show_default="the trained one", help="Model.")
    ] = CHECKPOINT,
    keep: Annotated[int, typer.Option("--keep", help="Full layers to keep.")] = 2,
    sequences: Annotated[int, typer.Option("--sequences", help="To search on.")] = 8,
    length: Annotated[int, typer.Option("--length", help="Tokens of a sequence.")] = 8184,
) -> None:
    """Search a pattern as `sgl-indexcache search` does, but with the training code's forward."""
    device = default_device()
    text = read_shard(data, "heldout", torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    lines = probes.calibration(text[: len(text) // 2], sequences, length, generator)
    tokens = torch.tensor([line["ids"] for line in lines], device=device)
    model = load(checkpoint, device)
    document = search(Evaluator(model, tokens), len(model.pattern), keep)
    write_json(out / "search.json", SCHEMA, document, on_device=True)
    for full, budget in document["budgets"].items():
        print(f"{full:>3} {budget['pattern']} {budget['loss']:.5f}", flush=True)
