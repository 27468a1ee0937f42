"""What a user can get wrong about telemetry."""

from sgl_indexcache.errors import UserError


class TelemetryError(UserError):
    """The event stream cannot be opened as the settings ask."""
