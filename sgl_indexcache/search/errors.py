"""The error of this room."""

from sgl_indexcache.errors import UserError


class SearchError(UserError):
    """A search that cannot be made as asked for, or a journal that cannot be used; the text says what to do."""
