"""`sgl-indexcache top`: watch a running server."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sgl_indexcache.cli.console import out
from sgl_indexcache.errors import UserError


class WatchError(UserError):
    """The command line asks for something that cannot be shown."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "top",
        help="Watch a running server: work skipped, recall, store, latency, events.",
        epilog="Example: sgl-indexcache top --once --json | jq .indexer.keys.skipped_share",
    )(top)


def top(
    url: Annotated[str, typer.Option("--url", help="The server.")] = "http://127.0.0.1:30000",
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, max=3600, help="Seconds from one look to the next.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, at the figures of the server's life.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each look, one a line.")] = False,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Environment variable with the API key.")
    ] = None,
    events_key: Annotated[
        Path | None, typer.Option("--events-key", help="This client's secret CURVE key, for events over TCP.")
    ] = None,
    events_server_key: Annotated[
        Path | None, typer.Option("--events-server-key", help="The server's public CURVE key.")
    ] = None,
) -> None:
    """Quit with q or Ctrl-C."""
    from sgl_indexcache.telemetry.subscriber import ClientKeys
    from sgl_indexcache.top import run
    from sgl_indexcache.top.screen import screen
    from sgl_indexcache.top.source import Source

    if (events_key is None) != (events_server_key is None):
        raise WatchError("--events-key and --events-server-key go together: give both or none")
    keys = ClientKeys(events_key, events_server_key) if events_key and events_server_key else None
    source = Source(url, _headers(api_key_env))
    if once:
        report, lines = run.once(source, keys)
        if as_json:
            print(json.dumps(report))
        else:
            out.print(screen(report, lines))
        return
    if not as_json and not sys.stdout.isatty():
        raise WatchError("standard output is no terminal: use --once, or --json for a line of JSON an interval")
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        run.follow(source, interval, keys, as_json=as_json, console=out)


def _headers(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable, "")
    if not key:
        raise WatchError(f"the environment variable {variable} is empty: set it or drop --api-key-env")
    return {"Authorization": f"Bearer {key}"}
