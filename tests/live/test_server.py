"""A server that does not come up is an error of the room, with the server's own words."""

from pathlib import Path

import pytest

from sgl_indexcache.live.errors import LiveError
from sgl_indexcache.live.server import Server


def test_a_server_that_exits_is_told_in_its_own_words(tmp_path: Path) -> None:
    server = Server(["--model-path", str(tmp_path / "none")], tmp_path / "server.log")
    with pytest.raises(LiveError, match=r"exited with code 2: .* holds no config\.json"), server:
        pass
