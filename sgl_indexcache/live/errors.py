"""The error of this room."""

from sgl_indexcache.errors import UserError


class LiveError(UserError):
    """A server that does not come up or answer, a folder or file that cannot be used; the text says what to do."""
