"""The error of this room."""

from sgl_indexcache.errors import UserError


class StoreError(UserError):
    """The index store cannot be built with these settings."""
