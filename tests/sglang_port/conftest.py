"""One installation of the seams for all tests of this folder, as SGLang does it in a process."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    from sglang.srt.plugins import load_plugins

    load_plugins()
