"""An event stream in a short private folder: the path of a Unix socket may have 107 bytes."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sgl_indexcache.telemetry import events
from sgl_indexcache.telemetry.address import resolve
from sgl_indexcache.telemetry.publisher import Publisher

Make = Callable[..., Publisher]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ic") as made:
        yield Path(made)


@pytest.fixture
def publish(folder: Path) -> Iterator[Make]:
    """Starts publishers, and connects the process's events to the last one."""
    made: list[Publisher] = []

    def start(**options: int) -> Publisher:
        publisher = Publisher(resolve(f"ipc://{folder}", None, 0), **options)
        made.append(publisher)
        events.connect(publisher)
        return publisher

    yield start
    events.connect(None)
    for publisher in made:
        publisher.close()
