"""What single parts cost: small runs of the measurements, and the files that they write."""

import json
import sys
from pathlib import Path

import pytest

from sgl_indexcache.bench import radix_overhead
from sgl_indexcache.bench.telemetry_overhead import summary


def test_both_trees_end_equal_and_the_report_has_its_envelope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "radix.json"
    arguments = ["--operations", "200", "--rounds", "1", "--capacity", "5000", "--limit", "1000", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["radix_overhead", *arguments])
    assert radix_overhead.main() == 0
    report = json.loads(out.read_text())
    assert list(report)[:4] == ["schema", "machine", "versions", "settings"]
    assert report["settings"]["operations"] == 200
    assert report["microseconds_per_operation"]["ours"] > 0


def test_a_summary_is_in_microseconds() -> None:
    assert summary([3000, 1000, 2000]) == {"mean_us": 2.0, "p50_us": 2.0, "p99_us": 3.0, "max_us": 3.0}
