"""`sgl-indexcache serve`: check the settings, set what must be set before SGLang is imported, hand over."""

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.errors import UserError
from sgl_indexcache.pattern import read_config, resolve
from sgl_indexcache.settings import Settings, load


class ServeError(UserError):
    """The server cannot be started as asked."""


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
    _launch(argv, enabled=settings.enabled)


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


def _launch(argv: list[str], *, enabled: bool) -> None:
    """SGLang's own launcher, with the errors of the start-up made one sentence each."""
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES, prepare_server_args
    from sglang.srt.utils import kill_process_tree

    load_plugins()
    if enabled and "indexcache" not in ATTENTION_BACKEND_CHOICES:
        from sgl_indexcache.sglang_port import version

        raise ServeError(
            f"seam attention-backend is not in force: SGLang did not load the plugin ({version.both()}); "
            "add indexcache to SGLANG_PLUGINS or unset it"
        )
    try:
        server_args = prepare_server_args(argv)
    except (ValueError, AssertionError) as error:
        raise ServeError(f"SGLang refuses these arguments: {str(error).strip().splitlines()[0]}") from error
    _check_port(server_args.host, server_args.port)
    if enabled:
        from sgl_indexcache.sglang_port import drain

        drain.install(server_args.tokenizer_worker_num)
    try:
        run_server(server_args)
    except RuntimeError as error:
        if "died during initialization (exit code: 2)" not in str(error):
            raise
        # The scheduler that ended so has said why, in one sentence.
        raise typer.Exit(2) from None
    finally:
        sys.stdout.flush()
        kill_process_tree(os.getpid(), include_parent=False)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port"
            ) from error
