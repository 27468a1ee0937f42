"""Single settings from the environment."""

from pathlib import Path

import pytest

from sgl_indexcache.settings import SettingsError, load, requested
from sgl_indexcache.settings.environment import variables

# What Kubernetes adds for a Service called sgl-indexcache, and for one called sgl-indexcache-router.
SERVICE_LINKS = {
    "SGL_INDEXCACHE_SERVICE_HOST": "10.0.0.1",
    "SGL_INDEXCACHE_SERVICE_PORT": "30000",
    "SGL_INDEXCACHE_SERVICE_PORT_HTTP": "30000",
    "SGL_INDEXCACHE_PORT": "tcp://10.0.0.1:30000",
    "SGL_INDEXCACHE_PORT_30000_TCP": "tcp://10.0.0.1:30000",
    "SGL_INDEXCACHE_PORT_30000_TCP_ADDR": "10.0.0.1",
    "SGL_INDEXCACHE_ROUTER_SERVICE_HOST": "10.0.0.2",
    "SGL_INDEXCACHE_ROUTER_PORT": "tcp://10.0.0.2:30001",
}


def test_every_leaf_has_a_variable() -> None:
    assert set(variables()) == {
        "SGL_INDEXCACHE_ENABLED",
        "SGL_INDEXCACHE_PATTERN",
        "SGL_INDEXCACHE_SCORING__MODE",
        "SGL_INDEXCACHE_SCORING__SHORTLIST",
        "SGL_INDEXCACHE_SCORING__WINDOW_PAGES",
        "SGL_INDEXCACHE_SCORING__RECALL_FLOOR",
        "SGL_INDEXCACHE_SCORING__SAMPLE_ROWS",
        "SGL_INDEXCACHE_SCORING__MIN_SAVED_SCORES",
        "SGL_INDEXCACHE_SCORING__DECODE_ROWS",
        "SGL_INDEXCACHE_STORE__ENABLED",
        "SGL_INDEXCACHE_STORE__SNAPSHOT_MIB",
        "SGL_INDEXCACHE_STORE__MARGIN",
        "SGL_INDEXCACHE_STORE__SORT_WAITING",
        "SGL_INDEXCACHE_STORE__SELF_CHECK",
        "SGL_INDEXCACHE_KERNELS__INDEXER",
        "SGL_INDEXCACHE_KERNELS__PREFILL",
        "SGL_INDEXCACHE_KERNELS__DECODE",
        "SGL_INDEXCACHE_KERNELS__SCRATCH_MIB",
        "SGL_INDEXCACHE_TELEMETRY__METRICS",
        "SGL_INDEXCACHE_TELEMETRY__EVENTS",
        "SGL_INDEXCACHE_TELEMETRY__ADDRESS",
        "SGL_INDEXCACHE_TELEMETRY__KEYS",
        "SGL_INDEXCACHE_TELEMETRY__QUEUE",
        "SGL_INDEXCACHE_TELEMETRY__REPLAY",
    }


@pytest.mark.parametrize(
    ("text", "expected"), [("false", False), ("0", False), ("no", False), ("TRUE", True), ("1", True)]
)
def test_booleans(text: str, expected: bool) -> None:
    assert load(None, {"SGL_INDEXCACHE_ENABLED": text}).enabled is expected


def test_values() -> None:
    found = load(
        None,
        {
            "SGL_INDEXCACHE_PATTERN": "1/4",
            "SGL_INDEXCACHE_SCORING__MODE": "exact",
            "SGL_INDEXCACHE_KERNELS__SCRATCH_MIB": "64",
            "PATH": "/bin",
            "SGLANG_PLUGINS": "x",
        },
    )
    assert (found.pattern, found.kernels.scratch_mib) == ("1/4", 64)


def test_environment_goes_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("enabled: false\npattern: {freq: 2}\nkernels:\n  scratch_mib: 1\n")
    environ = {
        "SGL_INDEXCACHE_CONFIG": str(path),
        "SGL_INDEXCACHE_PATTERN": "FS",
        "SGL_INDEXCACHE_KERNELS__SCRATCH_MIB": "2",
    }
    found = load(None, environ)
    assert (found.enabled, found.pattern, found.kernels.scratch_mib) == (False, "FS", 2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "SGL_INDEXCACHE_ENABLE",
            "1",
            "the environment variable SGL_INDEXCACHE_ENABLE is no setting: did you mean SGL_INDEXCACHE_ENABLED?",
        ),
        (
            "SGL_INDEXCACHE_KERNELS_SCRATCH_MIB",
            "1",
            "the environment variable SGL_INDEXCACHE_KERNELS_SCRATCH_MIB is no setting: "
            "did you mean SGL_INDEXCACHE_KERNELS__SCRATCH_MIB?",
        ),
        ("SGL_INDEXCACHE_KERNELS", "1", "the environment variable SGL_INDEXCACHE_KERNELS is no setting: "),
        ("SGL_INDEXCACHE_PORT", "30000", "the environment variable SGL_INDEXCACHE_PORT is no setting: "),
        (
            "SGL_INDEXCACHE_ENABLED",
            "maybe",
            "the environment variable SGL_INDEXCACHE_ENABLED='maybe': Input should be a valid boolean",
        ),
        (
            "SGL_INDEXCACHE_KERNELS__SCRATCH_MIB",
            "64MiB",
            "the environment variable SGL_INDEXCACHE_KERNELS__SCRATCH_MIB='64MiB': Input should be a valid integer",
        ),
        (
            "SGL_INDEXCACHE_KERNELS__SCRATCH_MIB",
            "0",
            "the environment variable SGL_INDEXCACHE_KERNELS__SCRATCH_MIB: kernels.scratch_mib should be "
            "greater than or equal to 1, but it is 0",
        ),
        (
            "SGL_INDEXCACHE_PATTERN",
            "SF",
            "the environment variable SGL_INDEXCACHE_PATTERN: pattern: the pattern begins with S",
        ),
        (
            "SGL_INDEXCACHE_SCORING__MODE",
            "fast",
            "the environment variable SGL_INDEXCACHE_SCORING__MODE='fast': Input should be 'exact'",
        ),
    ],
)
def test_refused(name: str, value: str, message: str) -> None:
    assert requested({name: value})
    with pytest.raises(SettingsError) as caught:
        load(None, {name: value})
    assert str(caught.value).startswith(message)


def test_a_section_that_is_none_is_refused_with_the_environment_too(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("kernels: 5\n")
    with pytest.raises(SettingsError, match="line 1: kernels is a section"):
        load(path, {"SGL_INDEXCACHE_KERNELS__SCRATCH_MIB": "2"})
    path.write_text("kernels:\n")
    assert load(path, {"SGL_INDEXCACHE_KERNELS__SCRATCH_MIB": "2"}).kernels.scratch_mib == 2


def test_empty_values_count_as_unset() -> None:
    environ = {"SGL_INDEXCACHE_CONFIG": "", "SGL_INDEXCACHE_PATTERN": "", "SGL_INDEXCACHE_ENABLED": ""}
    assert not requested(environ)
    assert load(None, environ) == load(None, {})


def test_service_links_are_not_ours() -> None:
    assert not requested(SERVICE_LINKS)
    assert load(None, SERVICE_LINKS) == load(None, {})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"PATH": "/bin", "SGLANG_USE_CPU_ENGINE": "1"}, False),
        ({"SGL_INDEXCACHE_CONFIG": "/x.yaml"}, True),
        ({"SGL_INDEXCACHE_ENABLED": "false"}, True),
        ({"SGL_INDEXCACHE_KERNELS__SCRATCH_MIB": "64"}, True),
    ],
)
def test_requested(environ: dict[str, str], expected: bool) -> None:
    assert requested(environ) is expected
