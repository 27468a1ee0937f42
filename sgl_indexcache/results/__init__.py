"""Writing figures: what every result carries, files that are whole or not there, plots.

Contract: a leaf; needs neither torch nor matplotlib until a device is named or a plot is drawn. Every
JSON result of the project is one object of this shape:

    schema     "sgl_indexcache.<what>/<version>"; a reader refuses the ones it does not know
    machine    system, processor, cores, memory_gib; device and device_memory_gib where the writer ran on the device
    versions   of this project, Python and the packages that the figures depend on; null where one is not installed
    settings   what was chosen: options, engine flags, sizes
    ...        figures, under names of their own: `figures`, `steps`, `rows`, `lengths`

No host name, no user, no path of the machine stands in a result. Where a class goes:

    provenance.py  machine, device, versions        files.py   the envelope, and atomic writing
    plot.py        an empty plot, and its colours   errors.py  what a user can mend
"""

from sgl_indexcache.results.errors import ResultError
from sgl_indexcache.results.files import envelope, write_json, write_text
from sgl_indexcache.results.plot import figure, require_matplotlib
from sgl_indexcache.results.provenance import device, kernel_versions, machine, versions

__all__ = [
    "ResultError",
    "device",
    "envelope",
    "figure",
    "kernel_versions",
    "machine",
    "require_matplotlib",
    "versions",
    "write_json",
    "write_text",
]
