"""The checkpoint in the training code, with selections of a study's own; one sequence at a time, in float32."""

import torch
from safetensors.torch import load_file

from sgl_indexcache.nano import CHECKPOINT
from sgl_indexcache.nano.model import NanoModel, Projections
from sgl_indexcache.nano.shape import NANO

SEED = 20_000_003
"""Of windows of text and of facts."""
ROWS_PER_SLICE = 256


class TrainedModel(NanoModel):
    """The trained weights; a study overrides `_bias`. `layer_ids` gives a layer its number."""

    def __init__(self) -> None:
        super().__init__(NANO)
        weights = {name: value.float() for name, value in load_file(CHECKPOINT / "model.safetensors").items()}
        self.load_state_dict(weights)
        self.layer_ids = {layer: number for number, layer in enumerate(self.model.layers)}

    def _attend(self, parts: Projections, bias: torch.Tensor | None) -> torch.Tensor:
        """As the model's, in slices that stop at the diagonal: half the work, and nothing of [heads, T, T]."""
        assert bias is not None
        q, k, v = parts.q, parts.k, parts.v
        length = q.shape[2]
        out = q.new_empty(*q.shape[:3], v.shape[-1])
        for begin in range(0, length, ROWS_PER_SLICE):
            end = min(length, begin + ROWS_PER_SLICE)
            logits = torch.matmul(q[:, :, begin:end], k[:, :, :end].mT).mul_(q.shape[-1] ** -0.5)
            weights = logits.add_(bias[..., begin:end, :end]).softmax(-1)
            out[:, :, begin:end] = torch.matmul(weights, v[:, :, :end])
        return out.transpose(1, 2).reshape(-1, q.shape[1] * v.shape[-1])


@torch.no_grad()
def loss_of(model: NanoModel, tokens: torch.Tensor) -> torch.Tensor:
    """Loss in nats of every position, float64 `[T]`, of T + 1 tokens."""
    stream, _ = model.hidden(tokens[None, :-1], True)
    _, each = model.loss(stream, tokens[None, 1:], torch.ones(tokens.numel() - 1, device=tokens.device))
    return each.double()


def count_units(picks: torch.Tensor, unit: int, units: int) -> torch.Tensor:
    """How many of each row's picks, -1 padded, lie in each unit of `unit` positions: float32 [R, units]."""
    counts = torch.zeros(picks.shape[0], units + 1, device=picks.device)
    place = torch.where(picks < 0, units, picks // unit).long()
    return counts.scatter_add_(1, place, torch.ones_like(place, dtype=torch.float32))[:, :units]
