"""Errors of the benchmarks that a user can mend."""

from sgl_indexcache.errors import UserError


class BenchError(UserError):
    """A benchmark that cannot be run or reported as asked."""
