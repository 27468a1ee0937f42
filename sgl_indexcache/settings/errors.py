"""The error of this room."""

from sgl_indexcache.errors import UserError


class SettingsError(UserError):
    """A settings file or an environment variable that cannot be used; the text says where and what to do."""
