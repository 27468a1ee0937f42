"""The weights that training begins with."""

import torch

from sgl_indexcache.nano.model import NanoModel


@torch.no_grad()
def initialise(model: NanoModel, seed: int) -> None:
    """Draw all parameters: a function of the seed and the shape, on the CPU.

    Matrices keep the scale of what they multiply. The projections back into the residual stream begin at
    zero, so that every layer is the identity at first; norms begin at one.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.zero_()
        else:
            scale = parameter.shape[-1] ** -0.5
            if "embed_tokens" in name:
                scale = 0.3
            elif "lm_head" in name:
                scale *= 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
