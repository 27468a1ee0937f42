"""Settings: one YAML file, single keys from the environment over it, unknown names refused.

Loaded in every process that SGLang starts, so this package imports pydantic and PyYAML only.

    model.py        what can be set        document.py     the file, with its line numbers
    environment.py  SGL_INDEXCACHE_*       loading.py      both together, and the errors
"""

from sgl_indexcache.settings.environment import requested
from sgl_indexcache.settings.errors import SettingsError
from sgl_indexcache.settings.loading import load
from sgl_indexcache.settings.model import (
    Kernels,
    Scoring,
    Settings,
    Store,
    Telemetry,
    UniformPattern,
    dump_yaml,
    json_schema,
)

__all__ = [
    "Kernels",
    "Scoring",
    "Settings",
    "SettingsError",
    "Store",
    "Telemetry",
    "UniformPattern",
    "dump_yaml",
    "json_schema",
    "load",
    "requested",
]
