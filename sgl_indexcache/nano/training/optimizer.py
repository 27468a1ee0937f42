"""The optimiser of the recipe: Muon for the matrices of the layers, AdamW for everything else.

Muon replaces a matrix's momentum by (nearly) the closest matrix with orthonormal rows or columns, found by a
few Newton-Schulz steps. Matrices of one shape are stacked and stepped together.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

STEPS = ((3.4445, -4.7750, 2.0315),) * 5
"""Coefficients (a, b, c) of X <- aX + (b A + c A A) X with A = X X^T: they drive all singular values to
about one, the fastest while they are small."""


def orthogonalise(stack: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Each matrix of [n, rows, columns] with its singular values driven to between 0.7 and 1.2."""
    x: torch.Tensor = stack.to(dtype)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for a, b, c in STEPS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).type_as(stack)


@dataclass
class _Stack:
    """Matrices of one shape and role, with their momentum float32 [n, rows, columns]."""

    parameters: list[nn.Parameter]
    momentum: torch.Tensor


class NanoOptimizer:
    """Steps the parameters that have a gradient; a stage that freezes a part gives it none.

    model        its `named_parameters` are those of the checkpoint
    matrix_rate  Muon's learning rate: the size of a step as a share of a matrix with singular values one
    other_rate   AdamW's, for embedding, head, norms and the indexers' head gates
    decay        weight decay of the matrices, times the learning rate
    momentum     Muon's
    """

    def __init__(
        self,
        model: nn.Module,
        matrix_rate: float = 0.02,
        other_rate: float = 3e-3,
        decay: float = 0.05,
        momentum: float = 0.95,
    ) -> None:
        self.matrix_rate, self.other_rate, self.decay, self.momentum = (
            matrix_rate,
            other_rate,
            decay,
            momentum,
        )
        shapes: dict[str, list[nn.Parameter]] = defaultdict(list)
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and ".layers." in name and "weights_proj" not in name:
                role = "indexer" if ".indexer." in name else "backbone"
                shapes[f"{role}.{'x'.join(map(str, parameter.shape))}"].append(parameter)
            else:
                others.append(parameter)
        self.stacks = {
            key: _Stack(matrices, torch.zeros(len(matrices), *matrices[0].shape, device=matrices[0].device))
            for key, matrices in sorted(shapes.items())
        }
        on_gpu = others[0].is_cuda
        self.adam = torch.optim.AdamW(
            others, lr=other_rate, betas=(0.9, 0.98), eps=1e-10, weight_decay=0.0, fused=on_gpu
        )
        self._dtype = torch.bfloat16 if on_gpu else torch.float32

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One step at `scale` times the learning rates; gradients are dropped afterwards."""
        for stack in self.stacks.values():
            grads = [parameter.grad for parameter in stack.parameters]
            if grads[0] is None:
                continue
            grad = torch.stack([g for g in grads if g is not None]).float()
            stack.momentum.lerp_(grad, 1 - self.momentum)
            # Nesterov: one step ahead along the new momentum.
            update = orthogonalise(grad.lerp(stack.momentum, self.momentum), self._dtype)
            rows, columns = update.shape[-2:]
            rate = self.matrix_rate * scale
            matrices: list[torch.Tensor] = list(stack.parameters)
            torch._foreach_mul_(matrices, 1 - rate * self.decay)
            step = -rate * max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(matrices, list(update.unbind()), alpha=step)
        for group in self.adam.param_groups:
            group["lr"] = self.other_rate * scale
        self.adam.step()
        for stack in self.stacks.values():
            for parameter in stack.parameters:
                parameter.grad = None
        self.adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, torch.Tensor]:
        """Flat tensors, to be saved. Momentum is rounded to bf16, in place too, which halves the files while
        a resumed run still equals one that went on."""
        flat: dict[str, torch.Tensor] = {}
        for key, stack in self.stacks.items():
            rounded = stack.momentum.bfloat16()
            stack.momentum.copy_(rounded)
            flat[f"muon.{key}"] = rounded
        for number, values in self.adam.state_dict()["state"].items():
            for name, value in values.items():
                flat[f"adam.{number}.{name}"] = value
        return flat

    def load(self, flat: dict[str, torch.Tensor]) -> None:
        """Take over what `state` gave."""
        adam = self.adam.state_dict()
        for key, value in flat.items():
            kind, _, rest = key.partition(".")
            if kind == "muon":
                self.stacks[rest].momentum.copy_(value)
            elif kind == "adam":
                number, _, name = rest.partition(".")
                adam["state"].setdefault(int(number), {})[name] = value
        self.adam.load_state_dict(adam)
