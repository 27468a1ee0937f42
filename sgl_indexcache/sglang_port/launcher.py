"""SGLang's own launcher, with the errors of the start-up made one sentence each."""

import os
import socket
import sys

from sgl_indexcache.errors import UserError
from sgl_indexcache.sglang_port import drain, version
from sgl_indexcache.sglang_port.base import BACKEND_NAME


class LauncherError(UserError):
    """SGLang's server cannot be started with these arguments."""


def launch(argv: list[str], *, enabled: bool) -> None:
    """Serve until the server ends.

    argv     arguments of SGLang's launcher
    enabled  whether the plugin must be in force

    Raises:
        LauncherError: SGLang refuses the arguments, has not loaded the plugin, or the port is taken.
        SystemExit: with code 2, when a scheduler has ended so and has said why.
    """
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ATTENTION_BACKEND_CHOICES, prepare_server_args
    from sglang.srt.utils import kill_process_tree

    load_plugins()
    if enabled and BACKEND_NAME not in ATTENTION_BACKEND_CHOICES:
        raise LauncherError(
            f"seam attention-backend is not in force: SGLang did not load the plugin ({version.both()}); "
            "add indexcache to SGLANG_PLUGINS or unset it"
        )
    try:
        server_args = prepare_server_args(argv)
    except (ValueError, AssertionError) as error:
        raise LauncherError(f"SGLang refuses these arguments: {str(error).strip().splitlines()[0]}") from error
    _check_port(server_args.host, server_args.port)
    if enabled:
        drain.install(server_args.tokenizer_worker_num)
    try:
        run_server(server_args)
    except RuntimeError as error:
        if "died during initialization (exit code: 2)" not in str(error):
            raise
        # The scheduler that ended so has said why, in one sentence.
        raise SystemExit(2) from None
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
            raise LauncherError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port"
            ) from error
