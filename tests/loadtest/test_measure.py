"""Histograms, groups, SLOs, shapes, units, conditions: small parts with exact answers."""

import math
import tracemalloc
from array import array
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_indexcache.loadtest.client.sse import LARGEST_EVENT, EventTooLargeError, SseParser
from sgl_indexcache.loadtest.drive.scrape import parse_metrics, parse_spelled
from sgl_indexcache.loadtest.drive.shape import Level, parse_levels
from sgl_indexcache.loadtest.errors import OptionError
from sgl_indexcache.loadtest.measure import groups
from sgl_indexcache.loadtest.measure.histogram import EXACT, PRECISION, Histogram
from sgl_indexcache.loadtest.measure.metrics import Metrics
from sgl_indexcache.loadtest.measure.record import Record
from sgl_indexcache.loadtest.measure.slo import parse_slo
from sgl_indexcache.loadtest.measure.timeline import MAX_BINS, Timeline
from sgl_indexcache.loadtest.report.fail_if import parse_condition
from sgl_indexcache.loadtest.units import parse_quantity, parse_seconds


@settings(max_examples=80)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0, 100))
def test_few_values_give_exact_percentiles(values: list[float], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    rank = min(len(values), max(1, math.ceil(percent / 100 * len(values) - 1e-9)))
    assert histogram.percentile(percent) == sorted(values)[rank - 1]


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0, 1e4])
def test_many_values_stay_within_the_precision(scale: float) -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 3 * EXACT) * scale
    histogram = Histogram()
    for part in np.array_split(values, 7):
        histogram.extend(part)
    for percent in (1, 50, 90, 99, 99.9):
        true = np.sort(values)[math.ceil(percent / 100 * len(values)) - 1]
        assert histogram.percentile(percent) == pytest.approx(true, rel=PRECISION)
    assert histogram.percentile(100) == pytest.approx(values.max(), rel=PRECISION)
    assert (histogram.maximum, histogram.count) == (values.max(), len(values))
    assert histogram.mean == pytest.approx(values.mean())


def test_memory_is_flat_past_a_million_samples() -> None:
    metrics = Metrics()
    gaps = array("d", np.random.default_rng(0).exponential(0.01, 1000))

    def feed(count: int) -> None:
        for number in range(count):
            at = float(number)
            record = Record(id=number, sent=at, first=at + 0.1, last=at + 1, end=at + 1, context=500, output=1001)
            metrics.add(record, gaps)

    feed(100)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    feed(1500)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert metrics.groups["all"].histograms["itl"].count == 1_600_000
    assert grown < 1_000_000
    assert all(h.nbytes() < 400_000 for h in metrics.groups["all"].histograms.values())


def test_buckets_and_their_order() -> None:
    assert [groups.bucket(n, groups.NEW_EDGES) for n in (0, 256, 257, 1024, 16384, 16385)] == [
        "0-256", "0-256", "256-1K", "256-1K", "4K-16K", "16K+",
    ]  # fmt: skip
    warm = Record(id=0, planned="warm", context=3000, new=100)
    assert groups.groups_of(warm) == ["all", "warm", "warm context 1K-4K", "warm new 0-256"]
    names = ["repeat", "warm new 16K+", "cold", "warm new 0-256", "all", "warm"]
    assert sorted(names, key=groups.order) == ["all", "cold", "warm", "repeat", "warm new 0-256", "warm new 16K+"]


def test_slo() -> None:
    slo = parse_slo("ttft=2s, tpot=50ms")
    good = Record(id=0, intended=0, sent=1, first=1.5, last=2.5, end=2.5, output=101)
    assert slo.met(good)
    late = Record(id=0, intended=0, sent=1, first=2.5, last=2.6, end=2.6, output=11)
    assert not slo.met(late), "the second before the send counts"
    slow = Record(id=0, intended=0, sent=0, first=0.1, last=1.1, end=1.1, output=11)
    assert not slo.met(slow)
    failed = Record(id=0, status="truncated")
    assert not slo.met(failed)
    for text in ("ttft", "ttft=", "foo=1s", "ttft=1s,ttft=2s", "ttft=0s", "ttft=-1s", ""):
        with pytest.raises(OptionError):
            parse_slo(text)


@pytest.mark.parametrize(
    ("text", "value"), [("50ms", 0.05), ("2s", 2), ("1.5m", 90), ("3", 3), ("1h", 3600), ("200us", 2e-4)]
)
def test_durations(text: str, value: float) -> None:
    assert parse_seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 day", "nan", "inf", "1s2", "1e999s", "5%"])
def test_no_durations(text: str) -> None:
    with pytest.raises(OptionError):
        parse_seconds(text)
    assert parse_quantity("5%") == 0.05


def test_shapes() -> None:
    def levels(concurrency: str | None = None, rate: str | None = None, ramp: str | None = None) -> list[Level]:
        return parse_levels(concurrency, rate, "constant", ramp)

    assert levels() == []
    assert [level.end for level in levels("1,2,4")] == [1, 2, 4]
    assert list(islice(levels(rate="4")[0].arrival_times(0), 4)) == [0, 0.25, 0.5, 0.75]
    assert levels("1..5", ramp="8s")[0].worker_starts() == [0, 2, 4, 6, 8]
    ramp = list(islice(levels(rate="1..3", ramp="10s")[0].arrival_times(0), 50))
    assert sum(time < 10 for time in ramp) == 20, "the mean rate of the ramp is 2"
    assert ramp[41] - ramp[40] == pytest.approx(1 / 3)
    for bad in (
        {"concurrency": "1", "rate": "1"}, {"concurrency": "0"}, {"concurrency": "1.5"}, {"rate": "x"},
        {"rate": "-1"}, {"concurrency": "1..4"}, {"concurrency": "4..1", "ramp": "5s"}, {"ramp": "5s"},
        {"concurrency": "1,"}, {"rate": "nan"}, {"concurrency": "1000000"},
    ):  # fmt: skip
        with pytest.raises(OptionError):
            levels(**bad)


@settings(max_examples=30)
@given(st.floats(0.1, 50), st.floats(1, 20), st.floats(0.5, 100), st.integers(0, 100))
def test_poisson_arrivals_are_ordered_and_have_their_rate(low: float, rise: float, ramp: float, seed: int) -> None:
    level = Level("open", low, low * rise, ramp)
    times = np.array(list(islice(level.arrival_times(seed), 500)))
    assert (np.diff(times) >= 0).all()
    assert times[0] == 0
    flat = Level("open", low, low)
    gaps = np.diff(list(islice(flat.arrival_times(seed), 500)))
    assert gaps.mean() == pytest.approx(1 / low, rel=0.25)


SUMMARY: dict[str, Any] = {
    "failed": 2, "requests": 10, "retries": 0, "output_tokens_per_s": 50.0, "slo": {"goodput": 0.9},
    "groups": {
        "all": {"hit_rate": 0.5, "latency": {"ttft": {"p99": 2.0}}},
        "warm": {"hit_rate": 0.9, "latency": {"ttft": {"p99": 1.5}}},
        "warm new 0-256": {"hit_rate": None, "latency": {"tpot": {"mean": 0.02}}},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("p99.ttft.warm > 1s", True), ("p99.ttft.warm>1500ms", False), ("p99.ttft.warm >= 1500ms", True),
        ("p99.ttft > 1999ms", True), ("failures > 0", True), ("failures > 2", False), ("failure_rate > 10%", True),
        ("goodput < 95%", True), ("goodput < 0.9", False), ("hit_rate.warm < 85%", False), ("hit_rate < 0.6", True),
        ("mean.tpot.warm.new.0-256 > 10ms", True), ("output_tokens_per_s < 40", False),
        ("p99.ttft.cold > 10s", True), ("hit_rate.warm.new.0-256 < 1%", True),
    ],
)  # fmt: skip
def test_conditions(text: str, fails: bool) -> None:
    """The last two ask for what was not measured: that fails, too."""
    assert (parse_condition(text).check(SUMMARY) is not None) is fails


@pytest.mark.parametrize("text", ["", "p99.ttft", "p98.ttft > 1s", "ttft > 1s", "p99.foo > 1", "failures > many",
                                  "failures = 1", "goodput.warm < 1", "p99.ttft > 1s > 2s", "os > 1"])  # fmt: skip
def test_refused_conditions(text: str) -> None:
    with pytest.raises(OptionError):
        parse_condition(text)


def test_a_timeline_stays_bounded() -> None:
    timeline = Timeline()
    for second in range(3 * MAX_BINS):
        timeline.sent(second)
        timeline.tokens(second, 2)
        timeline.done(second + 0.5, True)
    found = timeline.document()
    assert (found["width"], sum(found["done"]), sum(found["tokens"])) == (4.0, 3 * MAX_BINS, 6 * MAX_BINS)
    assert len(found["sent"]) <= MAX_BINS
    assert max(found["in_flight"]) == 1


@settings(max_examples=100)
@given(st.lists(st.sampled_from([b'{"a": 1}', b"[DONE]", b"", b"x" * 50]), max_size=6), st.data())
def test_events_come_out_however_the_stream_is_cut(payloads: list[bytes], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    stream = b": a comment" + end + end + b"".join(b"data: " + part + end + end for part in payloads)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = SseParser()
    found: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:stop])
    assert found == payloads


def test_an_event_without_end_is_refused() -> None:
    parser = SseParser()
    assert parser.feed(b"x" * LARGEST_EVENT) == []
    with pytest.raises(EventTooLargeError):
        parser.feed(b"x")
    assert SseParser().feed(b"event: x\ndata: a\ndata:b\n\n") == [b"a\nb"]


def test_metrics_text() -> None:
    text = (
        "# TYPE sglang:cached_tokens_total counter\n"
        'sglang:cached_tokens_total{rank="0"} 3\nsglang:cached_tokens_total{rank="1"} 4\n'
        "# TYPE sglang:x gauge\nsglang:x NaN\n# TYPE other gauge\nother 1\n"
    )
    assert parse_metrics(text) == {"sglang:cached_tokens_total": 7.0}
    with pytest.raises(ValueError, match=r"."):
        parse_metrics('sglang:x{a="} 1\n')
    ours = (
        "# TYPE sgl_indexcache_x_total counter\n"
        'sgl_indexcache_x_total{layer="0",reason="a",result="hit",tp_rank="0"} 3\n'
        'sgl_indexcache_x_total{layer="1",reason="a",result="hit",tp_rank="0"} 4\n'
        'sgl_indexcache_x_total{layer="1",reason="a",result="miss",tp_rank="0"} 5\n'
    )
    hit, miss = (f'sgl_indexcache_x_total{{reason="a",result="{kind}"}}' for kind in ("hit", "miss"))
    assert parse_metrics(ours) == {hit: 7.0, miss: 5.0}
    assert parse_spelled({'sgl_indexcache_x_total{result="hit",layer="1",reason="a"}': 2, "y": None}) == {hit: 2.0}
