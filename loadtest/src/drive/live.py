"""The dashboard in the terminal while a run goes on."""

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sgl_indexcache.loadtest.measure.metrics import Metrics
from sgl_indexcache.loadtest.measure.timeline import Timeline
from sgl_indexcache.loadtest.units import show_seconds

_PLAIN_EVERY_S = 10.0
_SHOWN = ("all", "cold", "warm", "repeat")


class Dashboard:
    """Redrawn by `update`; on something that is no terminal a line every ten seconds. `quiet` shows nothing."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._live: Live | None = None
        self._last = 0.0

    def __enter__(self) -> "Dashboard":
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, now: float, label: str, metrics: Metrics, timeline: Timeline, note: str = "") -> None:
        """Show the state at `now` seconds of the run."""
        if self._quiet:
            return
        head = (
            f"{now:6.1f} s  {label}  in flight {timeline.in_flight}  done {metrics.succeeded}  "
            f"failed {metrics.failed}  retries {metrics.retries}"
        )
        if self._live is not None:
            parts: list[RenderableType] = [Text(head, style="bold red" if metrics.failed else "bold"), table(metrics)]
            if metrics.failures:
                said = ", ".join(f"{kind} {count}" for kind, count in sorted(metrics.failures.items()))
                parts.append(Text(said, style="red"))
            if note:
                parts.append(Text(note, style="yellow"))
            self._live.update(Group(*parts), refresh=True)
        elif now - self._last >= _PLAIN_EVERY_S:
            self._last = now
            self._console.print(head, markup=False, soft_wrap=True)


def table(metrics: Metrics) -> Table:
    """Requests, hit rate, TTFT, TPOT and gaps of the classes so far."""
    table = Table(box=None, pad_edge=False)
    heads = ("", "requests", "hits", "TTFT p50", "p99", "from intended p99", "TPOT p50", "p99", "gap p99", "e2e p99")
    for head in heads:
        table.add_column(head, justify="left" if not head else "right")
    for name in _SHOWN:
        if (group := metrics.groups.get(name)) is None:
            continue
        histograms = group.histograms
        cells = [
            show_seconds(histograms[metric].percentile(percent))
            for metric, percent in (
                ("ttft", 50), ("ttft", 99), ("ttft_intended", 99), ("tpot", 50), ("tpot", 99), ("itl", 99),
                ("e2e", 99),
            )
        ]  # fmt: skip
        hits = "–" if group.hit_rate is None else f"{group.hit_rate:.0%}"
        table.add_row(name, str(group.requests), hits, *cells)
    return table
