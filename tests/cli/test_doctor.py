"""`sgl-indexcache doctor` in a process of its own, as scripts call it."""

import json
import os
import subprocess
import sys

from sgl_indexcache.sglang_port import registry


def doctor(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "sgl_indexcache.cli", "doctor", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_every_seam_is_in_force_on_the_cpu() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["servable"] is True
    assert report["device"]["kind"] == "cpu"
    assert [seam["name"] for seam in report["seams"]] == [seam.name for seam in registry.seams_for("cpu")]
    assert all(seam["in_force"] is True and seam["detail"] for seam in report["seams"])
    assert report["versions"]["sglang"] == "0.5.17"
    assert set(report["kernels"]) == {"prefill", "decode"}


def test_not_servable_is_exit_code_one() -> None:
    done = doctor("--json", SGLANG_PLUGINS="another")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["servable"] is False
    assert any("SGLANG_PLUGINS" in problem for problem in report["problems"])
    assert not any(seam["in_force"] for seam in report["seams"])


def test_tables_for_people() -> None:
    done = doctor(COLUMNS="100")
    assert done.returncode == 0
    assert "cpu-allocator" in done.stdout
    assert "servable: yes" in done.stdout


def test_switched_off() -> None:
    done = doctor("--json", SGL_INDEXCACHE_ENABLED="false")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert report["enabled"] is False
    assert report["seams"] == []


def test_schema_needs_no_sglang() -> None:
    done = doctor("--schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert schema["additionalProperties"] is False
    assert {"enabled", "pattern", "scoring", "kernels"} <= set(schema["properties"])
