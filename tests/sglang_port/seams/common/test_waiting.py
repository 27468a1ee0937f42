"""How long OpenMP's idle threads spin in the schedulers of the CPU engine."""

import os

import pytest

from sgl_indexcache.sglang_port.seams.common.server_args import _sleep_soon

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        # What a test sets is taken back.
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))


def test_they_sleep_soon_on_few_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    _sleep_soon()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    _sleep_soon()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_many_cores_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 64)
    _sleep_soon()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_says_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, 2)
    monkeypatch.setenv(name, "ACTIVE")
    _sleep_soon()
    assert [os.environ.get(other) for other in NAMES if other != name] == [None]
    assert os.environ[name] == "ACTIVE"
