"""Comparisons, HTML in a real browser, the commands and their exit codes, A/B."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sgl_indexcache.loadtest.ab import Side, run_ab
from sgl_indexcache.loadtest.ab import exit_code as ab_exit_code
from sgl_indexcache.loadtest.errors import ReportError
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.options import RunOptions
from sgl_indexcache.loadtest.report.compare import compare, judge
from sgl_indexcache.loadtest.report.comparison import print_comparison
from sgl_indexcache.loadtest.report.document import load_report
from sgl_indexcache.loadtest.report.html import page_of
from sgl_indexcache.loadtest.workload.spec import load_workload


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "sgl_indexcache.cli", "loadtest", *words]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=environment)


def synthetic(median: float, seed: int, count: int = 300) -> list[Record]:
    rng = np.random.default_rng(seed)
    return [
        Record(
            id=n, session=str(n // 5), planned="warm", context=2000, new=100, output=11, events=11,
            first=(ttft := float(rng.lognormal(np.log(median), 0.3))), last=ttft + 0.5, end=ttft + 0.5,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "same"), (1.3, "worse"), (0.7, "better")])
def test_the_interval_covers_the_true_ratio_and_the_verdict_follows(factor: float, verdict: str) -> None:
    covered = 0
    for seed in range(5):
        rows = compare(synthetic(0.2, seed, 400), synthetic(0.2 * factor, 100 + seed, 400), 0.15)
        row = next(r for r in rows if (r.group, r.metric, r.statistic) == ("warm", "ttft", "p50"))
        assert row.low is not None
        assert row.high is not None
        covered += row.low <= factor <= row.high
        assert row.verdict == verdict
    assert covered >= 3, "of five 95% intervals"


def test_few_requests_prove_nothing() -> None:
    rows = compare(synthetic(0.2, 0, 4), synthetic(0.4, 1, 4))
    assert {row.verdict for row in rows} == {"too few"}
    assert {row.statistic for row in rows} == {"p50"}
    assert judge(0.8, 1.2, 0.05) == "inconclusive"


def test_no_figure_is_cut_on_a_narrow_terminal() -> None:
    rows = compare(synthetic(0.2, 0), synthetic(0.21, 1))
    rows += compare(synthetic(0.2, 0, 4), synthetic(0.4, 1, 4))
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison({"sentence": "B against A: worse"}, rows, console)
    text = console.export_text()
    assert "…" not in text
    for row in rows:
        assert f"{row.ratio:.2f}" in text


@pytest.fixture
def two(simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A faster and a slower run of one workload."""
    for name, ttft in (("a", 0.02), ("b", 0.04)):
        server = simulate(lambda number, ttft=ttft: mocks.Plan(ttft=ttft, gaps=(0.002,)))
        run(server.url, workload="demo", sessions=6, concurrency=3, out=tmp_path / name, scrape_interval=0.2)
    return tmp_path / "a", tmp_path / "b"


def test_compare_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = map(str, two)
    done = command("compare", a, b, "--fail-on-worse", "--html", str(tmp_path / "c.html"))
    assert done.returncode == 1
    assert "B against A: worse" in done.stdout
    assert command("compare", b, a, "--fail-on-worse").returncode == 0
    found = json.loads(command("compare", a, b, "--json").stdout)
    row = next(r for r in found["rows"] if (r["group"], r["metric"], r["statistic"]) == ("warm", "ttft", "p50"))
    assert row["ratio"] == pytest.approx(2.0)
    assert row["low"] <= row["ratio"] <= row["high"]


def test_runs_of_other_workloads_or_with_failures_are_not_compared(
    two: tuple[Path, Path], simulate: Callable[..., Any], run: Callable[..., Any], mocks: Any, tmp_path: Path
) -> None:
    server = simulate(lambda number: mocks.Plan(fault="http_500" if number == 0 else None))
    run(server.url, workload="demo", sessions=6, concurrency=3, out=tmp_path / "failed")
    done = command("compare", str(two[0]), str(tmp_path / "failed"))
    assert done.returncode == 1
    assert "run B is not valid (status failed)" in done.stdout
    run(simulate().url, workload="demo", sessions=6, concurrency=3, seed=9, out=tmp_path / "other")
    done = command("compare", str(two[0]), str(tmp_path / "other"))
    assert (done.returncode, done.stderr) == (
        2, "error: the two runs differ in seed: compare runs of one workload, or add --force\n",
    )  # fmt: skip
    assert command("compare", str(two[0]), str(tmp_path / "other"), "--force").returncode == 0


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": "sgl_indexcache.loadtest/1"}', "\xff", "[" * 99999])
def test_broken_reports_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ReportError):
        load_report(tmp_path)


def test_files_of_a_run(two: tuple[Path, Path]) -> None:
    folder = two[0]
    assert sorted(os.listdir(folder)) == ["report.json", "requests.csv", "summary.csv"]
    document, records = load_report(folder)
    rows = list(csv.DictReader((folder / "requests.csv").open()))
    assert len(rows) == len(records) == document["stages"][0]["summary"]["requests"]
    assert float(rows[3]["ttft"]) == pytest.approx(records[3].ttft, abs=1e-6)
    summary = list(csv.DictReader((folder / "summary.csv").open()))
    p99 = next(row["p99"] for row in summary if (row["group"], row["metric"]) == ("warm", "ttft"))
    assert float(p99) == pytest.approx(
        document["stages"][0]["summary"]["groups"]["warm"]["latency"]["ttft"]["p99"], abs=1e-6
    )


def test_a_server_cannot_put_formulas_into_the_csv(
    serve: Callable[..., Any], run: Callable[..., Any], tmp_path: Path
) -> None:
    from sgl_indexcache.loadtest.report.csv import write_requests

    write_requests(tmp_path / "x.csv", [Record(id=0, error="=cmd()")])
    assert next(csv.DictReader((tmp_path / "x.csv").open()))["error"] == "'=cmd()"


def browse(path: Path) -> str:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=10000"]
    # A proxy that does not exist: whatever the page might fetch fails.
    flags += ["--proxy-server=127.0.0.1:9", f"--user-data-dir={path.parent / 'profile'}"]
    done = subprocess.run(
        [chromium, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=90, check=True
    )
    return done.stdout


def test_the_page_draws_every_plot_offline_in_a_browser(two: tuple[Path, Path], tmp_path: Path) -> None:
    document, records = load_report(two[0])
    document["target"]["model"] = "</script><b>bold</b>"
    document["server"]["series"]["</script><img src=x onerror=alert(1)>"] = [[0.0, 1.0], [1.0, 2.0]]
    document["server"]["change"]["</script><img src=x onerror=alert(1)>"] = 1.0
    path = tmp_path / "page.html"
    path.write_text(page_of(document, records), encoding="utf-8")
    assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=", path.read_text(encoding="utf-8"))
    dom = browse(path)
    body = re.search(r"<body[^>]*>", dom)
    assert body is not None
    assert "data-error" not in body[0]
    plots = int(re.search(r'data-plots="(\d+)"', body[0])[1])
    assert plots == len(re.findall(r'<div class="plot[^"]*" id="plot\d+"', dom)) >= 9
    assert dom.count('class="main-svg"') >= plots
    assert "<b>bold</b>" not in dom
    assert "<img" not in dom


def test_report_command(two: tuple[Path, Path], tmp_path: Path) -> None:
    done = command("report", str(two[0]), "--html", str(tmp_path / "r.html"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r.html").stat().st_size > 1_000_000
    done = command("report", str(two[0]), "--fail-if", "p50.ttft.warm > 1ms")
    assert done.returncode == 1
    assert "violated: concurrency 3: p50.ttft.warm > 1ms" in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "demo", "--url", "http://127.0.0.1:9"], "a workload never ends"),
        (["run", "demo", "--url", "ftp://x", "--sessions", "1"], "is no address"),
        (["run", "nope", "--url", "http://x", "--sessions", "1"], "no preset"),
        (["run", "demo", "--url", "http://x", "--sessions", "1", "--api", "grpc"], "--api 'grpc' is unknown"),
        (["run", "demo", "--url", "http://x", "--sessions", "1", "--salt", "me"], "--salt 'me' is unknown"),
        (["run", "demo", "--url", "http://x", "--sessions", "1", "--fail-if", "goodput < 1"], "add --slo"),
        (["run", "demo", "--url", "http://x", "--sessions", "1", "--extra-body", "[]"], "no JSON object"),
        (["run", "demo", "--url", "http://127.0.0.1:9", "--sessions", "1"], "is the server running"),
        (["replay", "none.jsonl", "--url", "http://x"], "is no file"),
        (["compare", "x", "y"], "holds no report"),
    ],
)
def test_mistakes_are_one_sentence_and_code_2(words: list[str], reason: str, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)] if words[0] in ("run", "replay") else []
    done = command(*words, *out)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_run_command_end_to_end(serve: Callable[..., Any], mocks: Any, tmp_path: Path) -> None:
    server = serve(lambda number: mocks.Plan(ttft=0.01))
    words = ["run", "demo", "--url", server.url, "--sessions", "4", "--rate", "5,10", "--slo", "ttft=1s"]
    done = command(*words, "--out", str(tmp_path / "o"), "--fail-if", "p99.ttft.warm > 5s")
    assert done.returncode == 0, done.stderr
    assert "goodput: 100.0%" in done.stdout
    assert "status: ok" in done.stdout
    assert sorted(os.listdir(tmp_path / "o")) == ["report.html", "report.json", "requests.csv", "summary.csv"]


def test_ab_alternates_and_reports_ratios_with_spread(simulate: Callable[..., Any], mocks: Any, tmp_path: Path) -> None:
    order: list[str] = []

    def start(side: Side, log: Path, waiting: Callable[[float], None]) -> Any:
        order.append(side.name)
        ttft = 0.04 if side.name == "slow" else 0.02
        return nullcontext(simulate(lambda number: mocks.Plan(ttft=ttft, gaps=(0.002,))))

    options = RunOptions(
        url="http://127.0.0.1", api="generate", out=tmp_path, workload=load_workload("demo"),
        workload_name="demo", sessions=3, quiet=True, html=False, scrape_interval=0.0,
    )  # fmt: skip
    pair = (Side(name="slow", arguments=[]), Side(name="fast", arguments=[]))
    document = run_ab(pair, options, 2, Console(quiet=True), start)
    assert order == ["slow", "fast", "fast", "slow"]
    assert document["verdict"] == "better"
    assert ab_exit_code(document) == 0
    warm = next(item for item in document["spread"] if (item["group"], item["metric"]) == ("warm", "ttft"))
    assert warm["rounds"] == pytest.approx([0.5, 0.5])
    assert sorted(os.listdir(tmp_path)) == [
        "ab.html", "ab.json", "round-1-a", "round-1-b", "round-2-a", "round-2-b",
    ]  # fmt: skip
    bytes_of = [load_report(tmp_path / f"round-{n}-{side}")[0]["run"]["salt"] for n in (1, 2) for side in "ab"]
    assert bytes_of == ["ab"] * 4
