"""Tiny DSA checkpoints with random weights, in the Hugging Face layout: transformers and SGLang load them.

Use: `python -m sgl_indexcache.nano.random_model OUT [--architecture glm_moe_dsa] [--pattern FFSSFS] ...`
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_indexcache.errors import UserError
from sgl_indexcache.nano import tokenizer
from sgl_indexcache.nano.layout import config_of, shapes_of
from sgl_indexcache.nano.spec import CLASSES, DTYPES, KERNEL, TINY, MlaDims, RandomModelError, RandomModelSpec

if TYPE_CHECKING:
    import torch

__all__ = ["MlaDims", "RandomModelError", "RandomModelSpec", "main", "write_random_model"]

STAMP = "random_model.json"
"""File in the folder that holds the spec; it is what makes a second call a no-op."""
FORMAT = 1
"""Raise it when the same spec would give other files."""


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
        found = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        raise RandomModelError(f"{folder} exists and is not a random model: choose another folder") from None
    if found != _stamp(spec):
        raise RandomModelError(f"{folder} holds a random model of another spec: remove it or choose another folder")
    return True


def main(arguments: list[str] | None = None) -> int:
    """The command line; `arguments` as `sys.argv[1:]`. Returns the exit status, 2 for a refused spec."""
    parser = argparse.ArgumentParser(prog="python -m sgl_indexcache.nano.random_model", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--architecture", choices=tuple(CLASSES), default="deepseek_v32")
    parser.add_argument("--moe", action="store_true", help="experts from layer 1 on")
    parser.add_argument("--pattern", help="F/S letters, one a layer")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--mla", choices=("tiny", "kernel"), default="tiny", help="kernel: widths GPU kernels take")
    for field in (
        "layers",
        "index-topk",
        "index-n-heads",
        "index-head-dim",
        "heads",
        "hidden",
        "max-positions",
        "seed",
    ):
        default = RandomModelSpec.__dataclass_fields__[field.replace("-", "_")].default
        parser.add_argument(f"--{field}", type=int, default=default)
    chosen = vars(parser.parse_args(arguments))
    out: Path = chosen.pop("out")
    chosen["mla"] = {"tiny": TINY, "kernel": KERNEL}[chosen["mla"]]
    try:
        print(write_random_model(out, RandomModelSpec(**chosen)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
