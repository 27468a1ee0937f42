"""The model on the device that it runs on."""

import torch

from sgl_indexcache.distill import functional
from sgl_indexcache.kernels.score_causal.reference import weigh
from sgl_indexcache.nano.model import NanoModel, Pieces


def default_device() -> torch.device:
    """The GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(device: torch.device) -> torch.dtype:
    """The dtype of matrix products there: bf16 on a GPU, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def prepare(model: NanoModel, device: torch.device, compiled: bool) -> NanoModel:
    """Move the model, and on a GPU put the fast versions of its parts in place."""
    model.to(device)
    if device.type == "cuda":
        from sgl_indexcache.kernels.score_causal.cuda import score_causal

        model.scorer = score_causal
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if compiled:
        model.pieces = compiled_pieces()
    return model


def compiled_pieces() -> Pieces:
    """The parts of a layer through torch.compile. They see flattened rows, so one shape serves all lengths."""
    import torch._dynamo

    # Training, warm-up and evaluation differ in what needs a gradient; each is one version.
    torch._dynamo.config.cache_size_limit = 64
    return Pieces(
        torch.compile(functional.before_attention, dynamic=False),
        torch.compile(functional.after_attention, dynamic=False),
        torch.compile(functional.weighted_loss, dynamic=False),
        torch.compile(weigh, dynamic=False),
    )
