"""The error of this room."""

from sgl_indexcache.errors import UserError


class ResultError(UserError):
    """A result that cannot be read, written or drawn; the text says what to do."""
