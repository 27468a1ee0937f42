"""Write a training state as a checkpoint: `python -m sgl_indexcache.nano.export STATE OUT`.

The folder is read by transformers and by SGLang: bf16 safetensors, config, tokenizer.
"""

import argparse
import json
from pathlib import Path

import torch

from sgl_indexcache.nano import tokenizer
from sgl_indexcache.nano.layout import shapes_of
from sgl_indexcache.nano.shape import SHAPES, NanoShape
from sgl_indexcache.nano.state import load_state, parameters_of


def export(parameters: dict[str, torch.Tensor], shape: NanoShape, folder: Path) -> Path:
    """Write the checkpoint of these parameters into `folder`, which is made; its files are replaced.

    Raises:
        ValueError: the parameters are not those of the shape.
    """
    from safetensors.torch import save_file

    config = shape.config()
    wanted, found = dict(shapes_of(config)), {name: tuple(t.shape) for name, t in parameters.items()}
    if wanted != found:
        raise ValueError(f"parameters are not those of the shape: {sorted(set(wanted.items()) ^ set(found.items()))}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().bfloat16().contiguous() for name, tensor in parameters.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=1) + "\n")
    tokenizer.write_tokenizer(folder, shape.max_position_embeddings)
    return folder


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sgl_indexcache.nano.export", description=__doc__)
    parser.add_argument("state", type=Path, metavar="STATE", help="folder of a training state")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    chosen = parser.parse_args(arguments)
    tensors, progress = load_state(chosen.state)
    print(export(parameters_of(tensors), SHAPES[progress["shape"]], chosen.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
