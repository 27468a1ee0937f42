"""Running engines get their pattern back, also after a search that was killed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from sgl_indexcache.live import fleet as module
from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.fleet import fleet
from sgl_indexcache.live.model import ModelFacts
from sgl_indexcache.pattern import Pattern

OWN, OTHER, KILLED = Pattern("FSFSFS"), Pattern("FFFFFF"), Pattern("FFFSSS")


class Running:
    """Stands for engine.Engine; `served` is what the servers hold, by URL."""

    served: dict[str, Pattern] = {}  # noqa: RUF012
    dtype: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, url: str, timeout: float = 1.0, patience: float = 1.0) -> None:
        self.url, self.timeout = url, timeout

    def pattern(self) -> Pattern:
        return self.served[self.url]

    def switch(self, pattern: Pattern) -> None:
        self.served[self.url] = pattern

    def facts(self) -> dict[str, Any]:
        return {"dtype": self.dtype.get(self.url, "float32")}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Pattern]:
    monkeypatch.setattr(module, "Engine", Running)
    monkeypatch.setattr(Running, "served", {"a": OWN, "b": OTHER})
    monkeypatch.setattr(Running, "dtype", {})
    return Running.served


def start(model: ModelFacts, out: Path, *urls: str, arguments: tuple[str, ...] = ()) -> Any:
    return fleet(model, urls=urls, arguments=arguments, out=out, longest=64)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_patterns_come_back_after_a_signal(
    model: ModelFacts, tmp_path: Path, served: dict[str, Pattern], number: signal.Signals
) -> None:
    def interrupted() -> None:
        with start(model, tmp_path, "a", "b") as engines:
            for engine in engines:
                engine.switch(KILLED)
            signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        interrupted()
    assert signal.getsignal(signal.SIGTERM) is before
    assert served == {"a": OWN, "b": OTHER}
    assert list(tmp_path.glob("*.json")) == []


def test_a_killed_search_is_made_good_by_the_next(
    model: ModelFacts, tmp_path: Path, served: dict[str, Pattern]
) -> None:
    (tmp_path / "patterns-to-restore.json").write_text(json.dumps({"a": str(OWN)}))
    served["a"] = KILLED
    with start(model, tmp_path, "a", "b"):
        pass
    assert served == {"a": OWN, "b": OTHER}


def test_refusals(model: ModelFacts, tmp_path: Path, served: dict[str, Pattern]) -> None:
    served["c"] = Pattern("FS")
    with pytest.raises(LiveError, match="serves a model of 2 layers"), start(model, tmp_path, "c"):
        pass
    with pytest.raises(LiveError, match="exclude each other"), start(model, tmp_path, "a", arguments=("--tp", "2")):
        pass
    Running.dtype["b"] = "bfloat16"
    with pytest.raises(LiveError, match="differ in dtype"), start(model, tmp_path, "a", "b"):
        pass
