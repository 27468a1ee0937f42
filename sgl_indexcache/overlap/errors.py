"""The error of this room."""

from sgl_indexcache.errors import UserError


class OverlapError(UserError):
    """A text or lengths that no overlap can be measured on; the text says what to do."""
