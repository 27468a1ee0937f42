"""`sgl-indexcache serve`: check the settings, set what must be set before SGLang is imported, hand over."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.errors import UserError
from sgl_indexcache.pattern import read_config, resolve
from sgl_indexcache.settings import Settings, load
from sgl_indexcache.sglang_port.launcher import launch


class ServeError(UserError):
    """The model folder cannot be served."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "serve",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        help=(
            "Start the SGLang server with IndexCache. Every flag of `sglang serve` is passed on; see "
            "`python -m sglang.launch_server --help` for their list.\n\n"
            "Example: sgl-indexcache serve --model-path MODEL --config indexcache.yaml --port 30000"
        ),
    )(serve)


def serve(
    context: typer.Context,
    model_path: Annotated[str, typer.Option("--model-path", help="Model folder or Hugging Face id.")],
    config: Annotated[Path | None, typer.Option("--config", help="Settings file of sgl_indexcache (YAML).")] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="Pattern of Full and Shared layers: FSFS..., a preset, or 1/4."),
    ] = None,
) -> None:
    if config is not None:
        os.environ["SGL_INDEXCACHE_CONFIG"] = str(config)
    if pattern is not None:
        os.environ["SGL_INDEXCACHE_PATTERN"] = pattern
    settings = load()
    # Asked for by name: from here on the plugin must be in force or the server must not start.
    os.environ["SGL_INDEXCACHE_ENABLED"] = "true" if settings.enabled else "false"
    argv = ["--model-path", model_path, *context.args]
    _check_model(model_path, settings)
    _choose_device(argv)
    if settings.enabled and not _has_flag(argv, "--attention-backend"):
        argv += ["--attention-backend", "indexcache"]
    launch(argv, enabled=settings.enabled)


def _check_model(model_path: str, settings: Settings) -> None:
    """Refuse a model folder that cannot be served so, before anything slow happens; hub ids are left to SGLang."""
    looks_like_path = model_path.startswith((".", "/", "~")) or Path(model_path).exists()
    if not looks_like_path:
        return
    folder = Path(model_path).expanduser()
    if not (folder / "config.json").is_file():
        raise ServeError(f"{model_path} holds no config.json; give a model folder or a Hugging Face id")
    if settings.enabled:
        resolve(settings.pattern, read_config(folder))


def _has_flag(argv: list[str], flag: str) -> bool:
    return any(word == flag or word.startswith(flag + "=") for word in argv)


def _value(argv: list[str], flag: str) -> str | None:
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == flag:
            return following
        if word.startswith(flag + "="):
            return word.split("=", 1)[1]
    return None


def _choose_device(argv: list[str]) -> None:
    """SGLang reads SGLANG_USE_CPU_ENGINE when it is imported, so the device is settled before."""
    device = _value(argv, "--device")
    if device is None:
        import torch

        if torch.cuda.is_available():
            return
        argv += ["--device", "cpu"]
    elif device != "cpu":
        return
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
