"""The bar of a long measurement: what is done, what remains, and about how long that takes."""

import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Bar:
    """A context manager around the measurement.

    The time left comes from measurements alone, so that a resumed one does not promise the journal's speed.
    """

    def __init__(self, console: Console, what: str, total: int, side_by_side: int = 1) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._progress.add_task(what, total=total, left="")
        self._total, self._done = total, 0
        self._measured, self._seconds = 0, 0.0
        self._side_by_side = side_by_side
        self._lock = threading.Lock()

    def advance(self, seconds: float | None, note: str = "") -> None:
        """One more is done; `seconds` is None when nothing had to be measured."""
        with self._lock:
            self._done += 1
            if seconds is not None:
                self._measured += 1
                self._seconds += seconds
            left = max(self._total - self._done, 0)
            text = f"{left} to go"
            if self._measured:
                text += f", {_clock(left * self._seconds / self._measured / self._side_by_side)} left"
            self._progress.update(self._task, completed=self._done, left=f"{note}  {text}".strip())

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
