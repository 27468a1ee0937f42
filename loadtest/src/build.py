"""From the options of the command line to RunOptions."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sgl_indexcache.loadtest.drive.shape import Level, parse_levels
from sgl_indexcache.loadtest.measure.slo import parse_slo
from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.report.fail_if import parse_condition
from sgl_indexcache.loadtest.target import Target, parse_extra, parse_headers
from sgl_indexcache.loadtest.units import parse_seconds

_DEFAULT_CONCURRENCY = 4


def target_of(flags: dict[str, Any]) -> Target:
    """The server under test. `flags`: options by parameter name; those left out keep Target's defaults."""
    same = {
        name: flags[name] for name in ("url", "api", "model", "tokenizer", "prompt", "token_range", "plain")
        if name in flags
    }  # fmt: skip
    return Target(
        **same,
        ignore_eos=not flags.get("respect_eos", False),
        extra=parse_extra(flags.get("extra_body")),
        headers=parse_headers(flags.get("header") or [], flags.get("api_key_env")),
        timeout=parse_seconds(flags["timeout"]),
    )


def run_options(flags: dict[str, Any], **what: Any) -> RunOptions:
    """A run. `what`: workload and its name, or trace, its format and whether it has times of its own."""
    timed = what.pop("timed", False)
    default = Level("trace") if timed else Level("closed", _DEFAULT_CONCURRENCY, _DEFAULT_CONCURRENCY)
    ramp = flags.get("ramp")
    levels = parse_levels(
        flags.get("concurrency"), flags.get("rate"), None if ramp is None else parse_seconds(ramp),
        flags.get("arrivals", "poisson"), default,
    )  # fmt: skip
    duration = flags.get("duration")
    return RunOptions(
        target=target_of(flags),
        out=flags["out"],
        levels=levels,
        seed=flags["seed"],
        salt_mode=flags["salt"],
        salt=flags["salt_value"],
        duration=None if duration is None else parse_seconds(duration),
        requests=flags.get("requests"),
        sessions=flags.get("sessions"),
        warmup=parse_seconds(flags["warmup"]),
        warmup_requests=flags["warmup_requests"],
        retries=flags.get("retries", 0),
        in_flight=flags["max_in_flight"],
        slo=None if flags.get("slo") is None else parse_slo(flags["slo"]),
        conditions=[parse_condition(text) for text in flags.get("fail_if") or []],
        scrape_interval=parse_seconds(flags["scrape_interval"]),
        flush_cache=flags.get("flush_cache", False),
        html=not flags.get("no_html", False),
        quiet=flags.get("quiet", False),
        **what,
    )


def default_out() -> Path:
    """A new folder's name below `loadtest-results`, from the time in UTC."""
    return Path("loadtest-results") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
