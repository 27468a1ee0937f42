"""The error of this room."""

from sgl_indexcache.errors import UserError


class SearchError(UserError):
    """A search, a calibration file, a journal or an engine that cannot be used; the text says what to do."""
