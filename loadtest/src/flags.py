"""The options that several commands share, as typer annotations. Imports nothing slow."""

from pathlib import Path
from typing import Annotated

import typer

_LOAD, _SENT, _TARGET, _OUT = "Load", "What is sent", "Server under test", "Report"

Url = Annotated[str, typer.Option("--url", help="Address, like http://127.0.0.1:30000.", rich_help_panel=_TARGET)]
Api = Annotated[str, typer.Option("--api", help="chat, completions, or SGLang's generate.", rich_help_panel=_TARGET)]
Model = Annotated[
    str | None, typer.Option("--model", help="Name in requests; default: the server's.", rich_help_panel=_TARGET)
]
Header = Annotated[
    list[str] | None, typer.Option("--header", help="'Name: value'; repeatable.", rich_help_panel=_TARGET)
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", help="Environment variable with the API key.", rich_help_panel=_TARGET),
]
Timeout = Annotated[str, typer.Option("--timeout", help="For a whole request.", rich_help_panel=_TARGET)]
Plain = Annotated[bool, typer.Option("--plain", help="Send only fields of OpenAI's own API.", rich_help_panel=_TARGET)]
FlushCache = Annotated[
    bool, typer.Option("--flush-cache", help="Empty SGLang's prefix cache first.", rich_help_panel=_TARGET)
]
ExtraBody = Annotated[
    str | None, typer.Option("--extra-body", help="JSON object that goes over every body.", rich_help_panel=_TARGET)
]
Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", help="The target's model folder: exact lengths.", rich_help_panel=_SENT),
]
Prompt = Annotated[str, typer.Option("--prompt", help="auto, ids or text.", rich_help_panel=_SENT)]
TokenRange = Annotated[
    str | None, typer.Option("--token-range", help="LOW:HIGH of random token ids.", rich_help_panel=_SENT)
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed and salt: same bytes.", rich_help_panel=_SENT)]
Salt = Annotated[
    str,
    typer.Option("--salt", help="Who shares KV: run, session (nobody), none (all runs).", rich_help_panel=_SENT),
]
SaltValue = Annotated[
    str | None, typer.Option("--salt-value", help="Text of the salt; default: drawn.", rich_help_panel=_SENT)
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the workload; repeatable.", rich_help_panel=_SENT)
]
RespectEos = Annotated[
    bool, typer.Option("--respect-eos", help="Let answers end by themselves.", rich_help_panel=_SENT)
]
Concurrency = Annotated[
    str | None,
    typer.Option(
        "--concurrency", help="Sessions at a time: 8, a sweep 1,2,4, or 1..32 with --ramp.", rich_help_panel=_LOAD
    ),
]
Rate = Annotated[
    str | None,
    typer.Option("--rate", help="Sessions a second: 2, 1,2,4, or 1..8 with --ramp.", rich_help_panel=_LOAD),
]
Arrivals = Annotated[str, typer.Option("--arrivals", help="poisson or constant.", rich_help_panel=_LOAD)]
Ramp = Annotated[str | None, typer.Option("--ramp", help="Time from one end to the other.", rich_help_panel=_LOAD)]
Duration = Annotated[
    str | None, typer.Option("--duration", help="Send for this long, then wait for answers.", rich_help_panel=_LOAD)
]
Requests = Annotated[
    int | None, typer.Option("--requests", min=1, help="Most requests a stage.", rich_help_panel=_LOAD)
]
Sessions = Annotated[
    int | None, typer.Option("--sessions", min=1, help="Most sessions a stage.", rich_help_panel=_LOAD)
]
Warmup = Annotated[str, typer.Option("--warmup", help="Sent but not measured, as a time.", rich_help_panel=_LOAD)]
WarmupRequests = Annotated[
    int, typer.Option("--warmup-requests", min=0, help="The same, as a count.", rich_help_panel=_LOAD)
]
Retries = Annotated[
    int,
    typer.Option("--retries", min=0, help="After a failure; each attempt is reported.", rich_help_panel=_LOAD),
]
MaxInFlight = Annotated[
    int, typer.Option("--max-in-flight", min=1, help="Requests at a time, at most.", rich_help_panel=_LOAD)
]
SloText = Annotated[
    str | None, typer.Option("--slo", help="ttft=2s,tpot=50ms (ttft, tpot, e2e, itl).", rich_help_panel=_OUT)
]
FailIf = Annotated[
    list[str] | None, typer.Option("--fail-if", help="'p99.ttft.warm > 1s'; repeatable.", rich_help_panel=_OUT)
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the reports.", rich_help_panel=_OUT)]
ScrapeInterval = Annotated[
    str,
    typer.Option("--scrape-interval", help="Between looks at /metrics; 0: never.", rich_help_panel=_OUT),
]
NoHtml = Annotated[bool, typer.Option("--no-html", help="Write JSON and CSV only.", rich_help_panel=_OUT)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.", rich_help_panel=_OUT)]


def of_a_run(
    url: Url,
    api: Api = "chat",
    model: Model = None,
    header: Header = None,
    api_key_env: ApiKeyEnv = None,
    timeout: Timeout = "10m",
    plain: Plain = False,
    flush_cache: FlushCache = False,
    extra_body: ExtraBody = None,
    tokenizer: Tokenizer = None,
    prompt: Prompt = "auto",
    token_range: TokenRange = None,
    seed: Seed = 0,
    salt: Salt = "run",
    salt_value: SaltValue = None,
    overrides: Set = None,
    respect_eos: RespectEos = False,
    concurrency: Concurrency = None,
    rate: Rate = None,
    arrivals: Arrivals = "poisson",
    ramp: Ramp = None,
    duration: Duration = None,
    requests: Requests = None,
    sessions: Sessions = None,
    warmup: Warmup = "0s",
    warmup_requests: WarmupRequests = 0,
    retries: Retries = 0,
    max_in_flight: MaxInFlight = 10_000,
    slo: SloText = None,
    fail_if: FailIf = None,
    out_folder: Out = Path("loadtest-results/<time>"),
    scrape_interval: ScrapeInterval = "2s",
    no_html: NoHtml = False,
    quiet: Quiet = False,
) -> None:
    """What `run` takes; other commands leave options out. Only the signature counts, see cli/shared.py."""
