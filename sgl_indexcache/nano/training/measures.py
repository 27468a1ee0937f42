"""Measures of a nano model: held-out loss, needles found, and how much attention its indexers keep.

Accuracies are those of greedy decoding: an answer counts if the most likely byte is right at each of its digits,
given the right ones before it, which is when greedy decoding says exactly that value.
"""

import itertools
from typing import Any

import torch

from sgl_indexcache.nano.divergence import sample_rows
from sgl_indexcache.nano.model import NanoModel, Pieces
from sgl_indexcache.nano.phrases import CHAT, FAMILIES, phrases
from sgl_indexcache.nano.training.tasks import Batch, needle_batch, windows

SEED = 20_000_003
TOKENS = 1 << 16
"""Tokens of one forward."""
DEPTHS = 10


@torch.no_grad()
def held_out_loss(model: NanoModel, text: torch.Tensor, length: int, sequences: int, sparse: bool) -> dict[str, Any]:
    """Mean loss in nats a byte over windows of held-out text, and by position in bins of doubling size."""
    generator = torch.Generator(text.device).manual_seed(SEED)
    batch = max(1, TOKENS // length)
    total = torch.zeros(length, device=text.device, dtype=torch.float64)
    count = 0
    while count < sequences:
        tokens = windows(text, batch, length + 1, generator)
        stream, _ = model.hidden(tokens[:, :-1], sparse)
        weights = torch.ones(batch * length, device=text.device)
        _, each = model.loss(stream, tokens[:, 1:], weights)
        total += each.view(batch, length).double().sum(0)
        count += batch
    edges = [0, *(edge for edge in (64, 128, 256, 512, 1024, 2048, 4096, 8192) if edge < length), length]
    bins = {f"{low}-{high}": round(float(total[low:high].mean()) / count, 5) for low, high in itertools.pairwise(edges)}
    return {"sequences": count, "loss": round(float(total.mean()) / count, 5), "by_position": bins}


def digits_right(model: NanoModel, batch: Batch, sparse: bool) -> torch.Tensor:
    """bool [B]: whether the whole value asked for is the model's greedy choice."""
    stream, _ = model.hidden(batch.tokens, sparse)
    where = batch.digits.reshape(-1).nonzero()[:, 0]
    head = model.logits(stream[where])
    right = torch.ones(batch.targets.numel(), dtype=torch.bool, device=stream.device)
    right[where] = head.argmax(-1) == batch.targets.reshape(-1)[where]
    return right.view(batch.targets.shape).all(1)


@torch.no_grad()
def needle_accuracy(
    model: NanoModel, text: torch.Tensor, length: int, repeats: int, sparse: bool, distractors: int = 0
) -> dict[str, Any]:
    """Share of needles found, over all, by depth (tenths of the context) and by phrase.

    Every depth and phrase is asked `repeats` times, each with its own text, key and value.
    """
    device = text.device
    generator = torch.Generator(device).manual_seed(SEED + length + distractors)
    tables = phrases(device)
    families = torch.arange(len(FAMILIES), device=device).repeat(DEPTHS * repeats)
    depths = torch.linspace(0, 1, DEPTHS, device=device).repeat_interleave(len(FAMILIES)).repeat(repeats)
    step = max(1, TOKENS // length)
    right: list[torch.Tensor] = []
    for begin in range(0, len(depths), step):
        some = slice(begin, begin + step)
        batch = needle_batch(text, length, depths[some], families[some], distractors, tables, generator)
        right.append(digits_right(model, batch, sparse))
    share = torch.cat(right).float().view(repeats, DEPTHS, len(FAMILIES)).cpu()
    return {
        "asked": share.numel(),
        "distractors": distractors,
        "accuracy": round(float(share.mean()), 4),
        "by_depth": [round(value, 4) for value in share.mean((0, 2)).tolist()],
        "by_phrase": [round(value, 4) for value in share.mean((0, 1)).tolist()],
        "chat": round(float(share[..., -len(CHAT) :].mean()), 4),
    }


@torch.no_grad()
def indexer_recall(model: NanoModel, text: torch.Tensor, length: int, rows: int, batches: int) -> dict[str, Any]:
    """Per layer, the share of dense attention's mass on the indexer's top k, and the KL to it.

    `text`: over random queries of held-out text. `answers`: over the queries that predict a needle's answer.
    """
    device = text.device
    generator = torch.Generator(device).manual_seed(SEED)
    tables = phrases(device)
    batch = max(1, TOKENS // length)
    means: dict[str, torch.Tensor] = {}
    for name in ("text", "answers"):
        total = torch.zeros(len(model.model.layers), 3, device=device)
        for _ in range(batches):
            if name == "text":
                tokens = windows(text, batch, length, generator)
                marked = torch.zeros_like(tokens, dtype=torch.bool)
                # Early queries keep everything by construction; they would flatter.
                marked[:, min(length // 2, 2 * model.shape.index_topk) :] = True
            else:
                depths = torch.rand(batch, generator=generator, device=device)
                family = torch.arange(batch, device=device) % len(FAMILIES)
                needles = needle_batch(text, length, depths, family, 0, tables, generator)
                tokens, marked = needles.tokens, needles.digits
            queries = sample_rows(marked, rows, generator, only_answers=True)
            total += model.hidden(tokens, False, queries)[1]
        means[name] = total / batches
    return {
        name: {
            "kl": [round(value, 4) for value in table[:, 0].tolist()],
            "mass": [round(value, 4) for value in table[:, 2].tolist()],
            "mean_mass": round(float(table[:, 2].mean()), 4),
        }
        for name, table in means.items()
    }


def quick(model: NanoModel, text: torch.Tensor) -> dict[str, Any]:
    """A short look, a few seconds on a GPU: longest length only."""
    longest = model.shape.max_position_embeddings
    model.pieces = Pieces()
    figures: dict[str, Any] = {}
    for name, sparse in (("dense", False), ("sparse", True)):
        figures[name] = {
            "loss": held_out_loss(model, text, longest, 16, sparse)["loss"],
            "needle": needle_accuracy(model, text, longest, 2, sparse)["accuracy"],
        }
    figures["recall"] = indexer_recall(model, text, longest, 32, 1)
    return figures
