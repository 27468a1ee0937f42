"""The error of this room."""

from sgl_indexcache.errors import UserError


class QualityError(UserError):
    """Patterns or tasks that no quality table can be made of; the text says what to do."""
