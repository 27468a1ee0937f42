"""The error of this room."""

from sgl_indexcache.errors import UserError


class DistillError(UserError):
    """A checkpoint, data, plan or state that cannot be used; the text says what to do."""
