"""The error of this room."""

from sgl_indexcache.errors import UserError


class PatternError(UserError):
    """A pattern, a preset name or a model configuration that cannot be used; the text says what to do."""
