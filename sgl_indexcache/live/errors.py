"""The error of this room."""

from sgl_indexcache.errors import UserError


class LiveError(UserError):
    """A server, a model folder or a file of prompts that cannot be used; the text says what to do."""
