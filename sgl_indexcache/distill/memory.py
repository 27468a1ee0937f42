"""How much memory a run needs on each device, before it starts: the plan that --dry-run prints.

An estimate from shapes: what the parameters, their gradients and the optimiser take exactly, and of everything that
lives only for a while the largest at any one time. The allocator's own overhead comes on top (allow a tenth).
"""

from dataclasses import dataclass

import torch

from sgl_indexcache.distill.config import ModelConfig
from sgl_indexcache.distill.indexing import ROWS_PER_SLICE
from sgl_indexcache.distill.model import HEAD_ROWS, DsaModel
from sgl_indexcache.distill.plan import Plan, Stage
from sgl_indexcache.pattern import Pattern

ADAM = 2
"""Moments of AdamW, each as large as the parameter."""


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes on each device, and what they are for."""

    what: str
    size: int


def plan_memory(model: DsaModel, plan: Plan, stage: Stage, world: int, kernel: bool) -> list[Item]:
    """The items of a stage on each of `world` devices; `model` may be on the meta device."""
    resting = [p for p in model.parameters() if not p.requires_grad]
    learning = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.nbytes for p in learning)
    items = [
        Item("parameters at rest", _share(sum(p.nbytes for p in resting), world)),
        Item("parameters that learn", _share(size, world)),
        Item("their gradients", _share(size, world)),
        Item("the optimiser's moments", _share(ADAM * size, world)),
    ]
    if world > 1:
        layers = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
        root = sum(p.numel() for p in model.parameters()) - sum(layers)
        low = model.dtype.itemsize
        # While one layer computes, the next is fetched.
        items.append(Item("layers and head gathered from the other devices", (2 * max(layers) + root) * low))
    return items + _activations(model.config, model.pattern, plan, stage, model.dtype, kernel)


def _share(size: int, world: int) -> int:
    return -(-size // world)


def _activations(
    c: ModelConfig, pattern: Pattern, plan: Plan, stage: Stage, dtype: torch.dtype, kernel: bool
) -> list[Item]:
    rows, keys, low = plan.sequences * plan.length, plan.length, dtype.itemsize
    queries = plan.sequences * min(plan.queries or keys, keys)
    heads = c.num_attention_heads
    attention = heads * (2 * c.qk_head_dim + c.v_head_dim) * low
    widest = max(c.intermediate_size, c.num_experts_per_tok * c.moe_intermediate_size)
    group = max(len(pattern.served_by(full)) for full in pattern.full_layers)
    held = group if plan.form == "mean" else 1
    index = c.index_n_heads * c.index_head_dim
    indexed = rows if stage == "sparse" else queries
    part = plan.sequences * min(plan.slice_rows, keys) * keys
    full = len(pattern.full_layers)
    items = [
        Item("residual stream and one layer's work", rows * (3 * 4 * c.hidden_size + attention + 3 * widest * low)),
        Item("attention of the layers in one loss", held * heads * c.qk_head_dim * low * (queries + rows)),
        Item(
            "index queries, keys and their gradients, all retained indexers",
            full * 2 * low * (indexed * index + rows * c.index_head_dim),
        ),
        Item("one slice of the loss", part * (4 * 3 * c.index_n_heads + 4 * 4 + (0 if kernel else 4 * 2 * heads))),
    ]
    if stage == "sparse":
        slice_ = plan.sequences * min(plan.attention_rows, keys) * keys
        scores = plan.sequences * min(ROWS_PER_SLICE, keys) * keys * 4 * (1 if kernel else 2 * c.index_n_heads)
        checkpoints = 0 if plan.offload else c.num_hidden_layers * rows * 4 * c.hidden_size
        items += [
            Item("kept for backward: the stream before each layer", checkpoints),
            Item("selections", full * rows * min(c.index_topk, keys) * 4),
            Item("one slice of scores", scores),
            Item("one slice of masked attention", slice_ * (1 + 2 * low)),
            Item("one slice of logits", min(HEAD_ROWS, rows) * c.vocab_size * 4 * 3),
        ]
    return items
