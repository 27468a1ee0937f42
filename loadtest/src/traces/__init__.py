"""Recorded traffic as sessions. A trace is read and checked whole before anything is sent."""

from sgl_indexcache.loadtest.traces.load import FORMATS, load_trace

__all__ = ["FORMATS", "load_trace"]
