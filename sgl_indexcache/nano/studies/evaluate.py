"""The figures of the model's card, measured on a training state: `python3 -m sgl_indexcache.nano evaluate`."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from sgl_indexcache.nano.model import NanoModel, Pieces
from sgl_indexcache.nano.shape import SHAPES
from sgl_indexcache.nano.training.device import default_device, dtype_of, prepare
from sgl_indexcache.nano.training.measures import held_out_loss, indexer_recall, needle_accuracy
from sgl_indexcache.nano.training.shards import read_shard
from sgl_indexcache.nano.training.state import load_state, parameters_of
from sgl_indexcache.results import write_json

SCHEMA = "sgl_indexcache.nano.evaluation/1"
LENGTHS = (1024, 2048, 4096, 8192)


def full(model: NanoModel, text: torch.Tensor, sequences: int, repeats: int) -> dict[str, Any]:
    """Everything, by length: the figures of the model card."""
    model.pieces = Pieces()
    longest = model.shape.max_position_embeddings
    lengths = [length for length in LENGTHS if length <= longest] or [longest]
    figures: dict[str, Any] = {"lengths": lengths, "topk": model.shape.index_topk}
    for name, sparse in (("dense", False), ("sparse", True)):
        figures[name] = {
            "loss": {str(n): held_out_loss(model, text, n, max(1, sequences * longest // n), sparse) for n in lengths},
            "needle": {str(n): needle_accuracy(model, text, n, repeats, sparse) for n in lengths},
            "needle_among_7": {str(n): needle_accuracy(model, text, n, repeats, sparse, 7) for n in lengths[-2:]},
        }
    figures["recall"] = {str(n): indexer_recall(model, text, n, 64, 4) for n in lengths}
    return figures


def command(
    state: Annotated[Path, typer.Option("--state", help="Folder of a training state.")],
    data: Annotated[Path, typer.Option("--data", help="Folder of the packed corpus.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE")],
    sequences: Annotated[int, typer.Option("--sequences", help="Held-out windows of the longest length.")] = 64,
    repeats: Annotated[int, typer.Option("--repeats", help="Needles for every depth and phrase.")] = 4,
) -> None:
    """Measure a training state: held-out loss, needles found, recall of attention, by length; one JSON."""
    begun = time.monotonic()
    device = default_device()
    tensors, progress = load_state(state)
    model = NanoModel(SHAPES[progress["shape"]], dtype_of(device))
    # Measured is what is exported: bf16 values.
    model.load_state_dict({name: value.bfloat16().float() for name, value in parameters_of(tensors).items()})
    figures = full(prepare(model, device, False), read_shard(data, "heldout", device), sequences, repeats)
    figures |= {"step": progress["step"], "device": str(device), "seconds": round(time.monotonic() - begun, 1)}
    print(json.dumps(write_json(out, SCHEMA, figures, on_device=True)))
