"""Write a training state as a checkpoint: `python -m sgl_indexcache.nano export STATE OUT`.

The folder is read by transformers and by SGLang: bf16 safetensors, config, tokenizer.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from sgl_indexcache.nano import tokenizer
from sgl_indexcache.nano.layout import shapes_of
from sgl_indexcache.nano.shape import SHAPES, NanoShape
from sgl_indexcache.nano.training.state import load_state, parameters_of


def export(parameters: dict[str, torch.Tensor], shape: NanoShape, folder: Path) -> Path:
    """Write the checkpoint of these parameters into `folder`, which is made; its files are replaced.

    Raises:
        ValueError: the parameters are not those of the shape.
    """
    from safetensors.torch import save_file

    config = shape.config()
    expected, shapes = dict(shapes_of(config)), {name: tuple(t.shape) for name, t in parameters.items()}
    if expected != shapes:
        differing = sorted(set(expected.items()) ^ set(shapes.items()))
        raise ValueError(f"parameters are not those of the shape: {differing}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().bfloat16().contiguous() for name, tensor in parameters.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=1) + "\n")
    tokenizer.write_tokenizer(folder, shape.max_position_embeddings)
    return folder


def command(
    state: Annotated[Path, typer.Argument(metavar="STATE", help="Folder of a training state.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
) -> None:
    """Write a training state as a checkpoint that transformers and SGLang read."""
    tensors, progress = load_state(state)
    print(export(parameters_of(tensors), SHAPES[progress["shape"]], out))
