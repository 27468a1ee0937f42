"""`sgl-indexcache health`: is a running server well, and is the plugin in force in it? For probes of containers."""

import http.client
import json
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Annotated, Any

import typer

from sgl_indexcache.cli.console import out
from sgl_indexcache.errors import UserError
from sgl_indexcache.settings import load


class HealthError(UserError):
    """The command cannot ask as it was told to."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "health",
        help=(
            "Ask a running server whether it is well and serves with the plugin; exit code 1 when not.\n\n"
            "Reads the same settings as `serve`: with `enabled: false` the plugin is not asked for. For the probes of "
            "containers. --until-down turns it round: wait until the server is gone, for those that must outlive it."
        ),
    )(health)


def health(
    url: Annotated[str, typer.Option("--url", help="Address of the server.")] = "http://127.0.0.1:30000",
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for each of the two questions.")] = 25.0,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Environment variable that holds the server's API key.")
    ] = None,
    until_down: Annotated[
        float | None,
        typer.Option("--until-down", min=0, help="Wait at most so many seconds until nothing listens at the URL."),
    ] = None,
) -> None:
    if not url.startswith(("http://", "https://")):
        raise HealthError(f"{url} is no address of a server; give http://HOST:PORT")
    if until_down is not None:
        down = wait_until_down(url, until_down)
        out.print(f"{url} is down" if down else f"{url} still answers", markup=False, soft_wrap=True)
        raise typer.Exit(0 if down else 1)
    problem = diagnose(url.rstrip("/"), _headers(api_key_env), timeout, requested=load().enabled)
    out.print(problem or "healthy", markup=False, soft_wrap=True)
    raise typer.Exit(1 if problem else 0)


def diagnose(url: str, headers: dict[str, str], timeout: float, *, requested: bool) -> str | None:
    """What is wrong with the server, in one sentence; None when nothing is.

    requested  the plugin must be in force in every scheduler
    """
    try:
        _get(url + "/health", headers, timeout)
        if not requested:
            return None
        info = json.loads(_get(url + "/server_info", headers, timeout))
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code} to {error.url.removeprefix(url)}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{url} does not answer ({getattr(error, 'reason', None) or error})"
    return _inactive(info)


def _inactive(info: Any) -> str | None:
    states = info.get("internal_states") if isinstance(info, dict) else None
    if not states:
        return "the server names no scheduler in /server_info"
    without = [number for number, state in enumerate(states) if not _active(state)]
    if without:
        return f"the plugin is requested but not active in scheduler {', '.join(map(str, without))}"
    return None


def _active(state: Any) -> bool:
    described = state.get("indexcache") if isinstance(state, dict) else None
    return isinstance(described, dict) and bool(described.get("pattern"))


def wait_until_down(url: str, seconds: float) -> bool:
    """Whether nothing listens at `url` any more; asks every half second, `seconds` at most."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        # Once: the name of a pod that ends may vanish before the pod does.
        address = str(socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return True
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=5.0).close()
        except TimeoutError:
            pass  # slow is not down
        except OSError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def _headers(api_key_env: str | None) -> dict[str, str]:
    if api_key_env is None:
        return {}
    if not (key := os.environ.get(api_key_env)):
        raise HealthError(f"the environment variable {api_key_env} holds no API key; set it or leave --api-key-env out")
    return {"Authorization": f"Bearer {key}"}


def _get(url: str, headers: dict[str, str], timeout: float) -> bytes:
    # A probe asks the container itself: a proxy of the environment has no part in it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
        return bytes(answer.read())
