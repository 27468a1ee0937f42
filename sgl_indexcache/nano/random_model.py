"""Tiny DSA checkpoints with random weights, in the Hugging Face layout: transformers and SGLang load them.

On the command line: `python -m sgl_indexcache.nano random-model OUT`.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sgl_indexcache.nano import tokenizer
from sgl_indexcache.nano.layout import config_of, shapes_of
from sgl_indexcache.nano.spec import (
    CLASSES,
    DTYPES,
    KERNEL,
    TINY,
    Architecture,
    Dtype,
    MlaDims,
    RandomModelError,
    RandomModelSpec,
)

if TYPE_CHECKING:
    import torch

__all__ = ["MlaDims", "RandomModelError", "RandomModelSpec", "write_random_model"]

STAMP = "random_model.json"
"""File in the folder that holds the spec; it is what makes a second call a no-op."""
FORMAT = 1
"""Raise it when the same spec would give other files."""
WIDTHS = {"tiny": TINY, "kernel": KERNEL}
"""Widths of the latent attention by their names on the command line."""
SPEC = RandomModelSpec()
"""All defaults."""


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> "torch.Tensor":
    """The fp32 tensor of this name: bf16-representable, and a function of name, shape and seed alone.

    Norm weights scatter around one and biases around zero by 0.1. Matrices keep the scale of what they
    multiply, times 1.5: enough for next-token distributions that are neither flat nor one-hot.
    """
    import torch

    # Seeded by name: a tensor that is added or left out changes no other.
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
    if name.endswith("bias"):
        draw = 0.1 * draw
    elif len(shape) == 1:
        draw = 1 + 0.1 * draw
    elif "embed_tokens" not in name:
        draw = draw * (1.5 / math.sqrt(shape[-1]))
    return draw.bfloat16().float()


def write_random_model(folder: Path, spec: RandomModelSpec) -> Path:
    """Write the checkpoint of `spec` with its tokenizer into `folder`, and return the folder.

    Idempotent: a folder that holds this very spec is left as it is. Atomic: the folder appears complete or
    not at all, and two processes may race for it.

    Raises:
        RandomModelError: the folder exists and holds anything else.
    """
    folder = Path(folder)
    if _holds(folder, spec):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _fill(scratch, spec)
        scratch.chmod(0o755)
        os.rename(scratch, folder)
    except OSError:
        # A rename onto a folder that is not empty fails: fine if another process was just faster.
        if not _holds(folder, spec):
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _fill(folder: Path, spec: RandomModelSpec) -> None:
    import torch
    from safetensors.torch import save_file

    config = config_of(spec)
    tensors = {}
    for name, shape in shapes_of(config):
        # The router's correction bias is fp32 in published checkpoints of any dtype.
        kept = torch.float32 if name.endswith("e_score_correction_bias") else getattr(torch, spec.dtype)
        tensors[name] = random_tensor(name, shape, spec.seed).to(kept)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=1) + "\n")
    tokenizer.write_tokenizer(folder, spec.max_positions)
    (folder / STAMP).write_text(json.dumps(_stamp(spec), indent=1) + "\n")


def _stamp(spec: RandomModelSpec) -> dict[str, Any]:
    return {"format": FORMAT, "spec": dataclasses.asdict(spec)}


def _holds(folder: Path, spec: RandomModelSpec) -> bool:
    """Whether the folder holds this spec; False if nothing is there; raises if anything else is."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        raise RandomModelError(f"{folder} exists and is not a random model: choose another folder") from None
    if stamp != _stamp(spec):
        raise RandomModelError(f"{folder} holds a random model of another spec: remove it or choose another folder")
    return True


def command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    architecture: Annotated[str, typer.Option("--architecture", help=" or ".join(CLASSES))] = SPEC.architecture,
    moe: Annotated[bool, typer.Option("--moe", help="Experts from layer 1 on.")] = False,
    pattern: Annotated[str | None, typer.Option("--pattern", help="F/S letters, one a layer.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help=" or ".join(DTYPES))] = SPEC.dtype,
    mla: Annotated[str, typer.Option("--mla", help="tiny, or kernel: the widths that GPU kernels take.")] = "tiny",
    layers: Annotated[int, typer.Option("--layers")] = SPEC.layers,
    index_topk: Annotated[int, typer.Option("--index-topk")] = SPEC.index_topk,
    index_n_heads: Annotated[int, typer.Option("--index-n-heads")] = SPEC.index_n_heads,
    index_head_dim: Annotated[int, typer.Option("--index-head-dim")] = SPEC.index_head_dim,
    heads: Annotated[int, typer.Option("--heads")] = SPEC.heads,
    hidden: Annotated[int, typer.Option("--hidden")] = SPEC.hidden,
    max_positions: Annotated[int, typer.Option("--max-positions")] = SPEC.max_positions,
    seed: Annotated[int, typer.Option("--seed")] = SPEC.seed,
) -> None:
    """Write a tiny DSA checkpoint with random weights; transformers and SGLang load it.

    \b
    python -m sgl_indexcache.nano random-model OUT --architecture glm_moe_dsa --pattern FFSSFS
    """
    if mla not in WIDTHS:
        raise RandomModelError(f"mla {mla!r} is unknown: use one of {', '.join(WIDTHS)}")
    spec = RandomModelSpec(
        architecture=cast(Architecture, architecture),  # the spec refuses others
        layers=layers,
        moe=moe,
        pattern=pattern,
        index_topk=index_topk,
        index_n_heads=index_n_heads,
        index_head_dim=index_head_dim,
        heads=heads,
        hidden=hidden,
        mla=WIDTHS[mla],
        max_positions=max_positions,
        dtype=cast(Dtype, dtype),
        seed=seed,
    )
    print(write_random_model(out, spec))
