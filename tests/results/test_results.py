"""Results: their envelope, files that are whole or not there, and what is said without matplotlib."""

import builtins
import json
import platform
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache import __version__, results
from sgl_indexcache.results.provenance import KERNEL_PACKAGES


def test_the_envelope_comes_first_and_names_no_machine(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    report = results.write_json(path, "sgl_indexcache.sample/1", {"settings": {"n": (1, 2)}, "figures": {}})
    assert report == json.loads(path.read_text())
    assert list(report) == ["schema", "machine", "versions", "settings", "figures"]
    assert report["settings"] == {"n": [1, 2]}
    assert report["versions"]["sgl-indexcache"] == __version__
    assert set(report["machine"]) == {"system", "processor", "cores", "memory_gib"}
    assert platform.node() not in path.read_text().replace(report["machine"]["processor"], "")
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_a_result_of_the_device_names_it() -> None:
    whole = results.envelope("sgl_indexcache.sample/1", on_device=True)
    assert whole["machine"]["device"]
    assert set(KERNEL_PACKAGES) <= set(whole["versions"])


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        results.write_json(path, "sgl_indexcache.sample/1", {"figures": float("nan")})
    assert path.read_text() == "old"


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert results.versions(("no-such-package",))["no-such-package"] is None


def test_a_plot_without_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(results.ResultError, match="plots need matplotlib") as caught:
        results.figure(1.0, 1.0)
    assert "\n" not in str(caught.value)
