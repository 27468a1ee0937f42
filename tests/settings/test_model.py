"""The settings' fields: defaults, bounds, schema, round trip."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sgl_indexcache.settings import Settings, UniformPattern, load
from sgl_indexcache.settings.model import dump_yaml, json_schema

positive = st.integers(1, 10**6)
any_settings = st.builds(
    Settings,
    enabled=st.booleans(),
    pattern=st.none()
    | st.text("FS", max_size=90).map(lambda rest: "F" + rest)
    | st.sampled_from(["1/4", "glm5-1/4", "1/100"])
    | st.builds(UniformPattern, freq=positive, offset=st.none() | positive),
    kernels=st.fixed_dictionaries(
        {"scratch_mib": positive},
        optional={
            "indexer": st.sampled_from(["auto", "sglang", "ours"]),
            "prefill": st.sampled_from(["auto", "sglang", "flashinfer", "flashmla", "fa3"]),
            "decode": st.sampled_from(["auto", "sglang", "flashinfer", "flashmla", "fa3"]),
        },
    ),
)


def test_defaults() -> None:
    found = Settings()
    assert found.model_dump() == {
        "enabled": True,
        "pattern": None,
        "scoring": {
            "mode": "exact",
            "shortlist": 0.25,
            "window_pages": 1,
            "recall_floor": 0.9,
            "sample_rows": 256,
            "min_saved_scores": 1 << 25,
            "decode_rows": None,
        },
        "store": {
            "enabled": False,
            "snapshot_mib": 256,
            "margin": None,
            "sort_waiting": False,
            "self_check": False,
        },
        "kernels": {"indexer": "auto", "prefill": "auto", "decode": "auto", "scratch_mib": 256},
        "telemetry": {
            "metrics": True,
            "events": True,
            "address": "ipc",
            "keys": None,
            "queue": 4096,
            "replay": 1024,
        },
    }


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().enabled = False


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_settings)
def test_dump_and_load(tmp_path: Path, found: Settings) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(dump_yaml(found), encoding="utf-8")
    assert load(path, {}) == found


def test_every_field_is_described_and_closed() -> None:
    schema = json_schema()
    for title, section in {"Settings": schema, **schema["$defs"]}.items():
        assert section["additionalProperties"] is False, title
        for name, field in section["properties"].items():
            # A section's text may stand at its definition alone.
            target = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
            assert target.get("description"), f"{title}.{name}"


def test_schema_bounds() -> None:
    field: dict[str, Any] = json_schema()["$defs"]["Kernels"]["properties"]["scratch_mib"]
    assert (field["minimum"], field["maximum"], field["default"]) == (1, 1_000_000, 256)


def test_import_is_cheap() -> None:
    code = (
        "import sys, sgl_indexcache.settings;"
        "heavy = {'torch', 'sglang', 'transformers', 'rich', 'typer', 'numpy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
