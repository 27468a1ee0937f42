"""The `sgl-indexcache` command line. One module a command group; `app.py` lists them."""

from sgl_indexcache.cli.app import main

__all__ = ["main"]
